"""Small enumerable problems: three tokens, short sequences, networks with a given score."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import ClassVar

import pytest
import reference
import torch
import torch.nn.functional as F
from scipy.stats import chisquare

from sedd_cli.core.graphs import GRAPHS, Graph
from sedd_cli.core.samplers import SAMPLERS, Stepper
from sedd_cli.core.schedules import SCHEDULES
from sedd_cli.testing.problems import N, noisy, score_model

__all__ = ["N", "noisy", "score_model"]

#: With SEDD_ALL_TESTS=1 every combination of the parts is tested, which takes twice the time. The usual tests
#: take two schedules, whose noise grows in different ways, and of graphs with the same code (`gaussian`,
#: `nearest_neighbour`), or with none of its own in samplers (`state_dependent`), two samplers. Every schedule by
#: itself is in test_schedules.py.
ALL = bool(os.environ.get("SEDD_ALL_TESTS"))
#: For tests that take half a minute, of what shorter tests reach in part.
only_with_all = pytest.mark.skipif(not ALL, reason="takes long: SEDD_ALL_TESTS=1")
NOISES = list(SCHEDULES) if ALL else ["loglinear", "geometric"]
FEW = {} if ALL else dict.fromkeys(("gaussian", "nearest_neighbour", "state_dependent"), ("tweedie", "euler"))

every_graph = pytest.mark.parametrize("name", GRAPHS)
#: For tests that take long: without `nearest_neighbour`, whose code is that of `gaussian`, and without
#: `state_dependent`, whose process is tested in graphs/test_state_dependent.py.
KINDS = [name for name in GRAPHS if ALL or name not in ("nearest_neighbour", "state_dependent")]
every_kind_of_graph = pytest.mark.parametrize("name", KINDS)
every_noise = pytest.mark.parametrize("noise", [SCHEDULES[name]() for name in NOISES], ids=NOISES)
STEPPERS = [name for name, cls in SAMPLERS.items() if issubclass(cls, Stepper)]
every_sampler = pytest.mark.parametrize("sampler", STEPPERS)


def fits(sampler: str, graph: str, **options: object) -> bool:
    """Whether the sampler with these options accepts the graph."""
    try:
        SAMPLERS[sampler](**options).check(GRAPHS[graph](vocab_size=N))
    except ValueError:
        return False
    return True


PAIRS = [(g, s) for g in GRAPHS for s in FEW.get(g, STEPPERS) if fits(s, g)]
every_pair = pytest.mark.parametrize(("name", "sampler"), PAIRS)
#: Every pair with every schedule; graphs without closed forms with one, unless all is tested.
every_setting = pytest.mark.parametrize(
    ("name", "sampler", "noise"),
    [
        pytest.param(g, s, SCHEDULES[noise](), id=f"{g}-{s}-{noise}")
        for g, s in PAIRS
        for noise in (NOISES if ALL or g in ("absorbing", "uniform") else NOISES[:1])
    ],
)


@dataclass(frozen=True)
class Cyclic(Graph):
    """Tokens on a circle, each moves to the next at rate 1: ratios as small as sigma^(N-1)/(N-1)!. Not registered."""

    name: ClassVar[str] = "cyclic"

    def rate(self, x: torch.Tensor) -> torch.Tensor:
        here = F.one_hot(x, self.vocab_size).double()
        return here.roll(1, -1) - here


def cyclic_transition(vocab_size: int, sigma: float) -> torch.Tensor:
    """exp(sigma·Q) of `Cyclic` in closed form: the number of moves is Poisson; those of y are y − x, y − x + N, …"""
    here = torch.arange(vocab_size)
    moves = (here[:, None] - here) % vocab_size
    terms = [(moves + vocab_size * k).double() for k in range(1 + 200 // vocab_size)]
    level = torch.tensor(sigma, dtype=torch.float64)
    return sum(torch.exp(torch.xlogy(k, level) - level - torch.lgamma(k + 1)) for k in terms)


def rate_matrix(name: str, vocab_size: int) -> torch.Tensor:
    """Q [S, S] as the paper writes it; of a graph that tests/reference does not know, its own `rate`."""
    if name in reference.RATES:
        return reference.rate_matrix(name, vocab_size)
    return GRAPHS[name](vocab_size=vocab_size).rate_matrix


def base(name: str, vocab_size: int) -> torch.Tensor:
    """p_base [S] as the paper writes it; of a graph that tests/reference does not know, from its rates."""
    if name in reference.RATES:
        return reference.base(name, vocab_size)
    p = reference.limit(rate_matrix(name, vocab_size))[:, 0]
    return torch.where(p.abs() < 1e-12, 0.0, p)  # rounding of states that are left for good


def world(name: str, L: int, seed: int = 0) -> tuple[Graph, torch.Tensor, torch.Tensor]:
    """(graph, Q, p0): the graph over N tokens, its dense rates, a data distribution over its states."""
    Q = rate_matrix(name, N)
    return GRAPHS[name](vocab_size=N), Q, reference.source(N, L, len(Q), seed)


def schedule(noise):
    return lambda t: tuple(float(value) for value in noise(torch.tensor(t, dtype=torch.float64)))


def follows(x: torch.Tensor, truth: torch.Tensor, S: int) -> None:
    """Assert that the sequences x [draws, L] follow the distribution `truth` [S^L]."""
    places = S ** torch.arange(x.shape[1] - 1, -1, -1)
    seen = torch.bincount((x * places).sum(-1), minlength=len(truth)).double()
    expected = truth * len(x)
    assert seen[expected < 1e-9].sum() == 0
    rare = expected < 5  # pooled, as the chi-square test requires
    cells = [(seen[~rare], expected[~rare]), (seen[rare].sum()[None], expected[rare].sum()[None])]
    seen, expected = (torch.cat([cell[side] for cell in cells if cell[1].sum() > 1e-6]) for side in (0, 1))
    # fixed seed: a correct implementation falls below 1e-4 with one seed in ten thousand
    assert chisquare(seen, expected).pvalue > 1e-4
