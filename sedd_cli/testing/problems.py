"""Small enumerable problems: three tokens, short sequences, networks with a given score."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from typing import Any, TypeVar, cast

import torch
from torch import Tensor

from sedd_cli.core.graphs import Graph, Transition
from sedd_cli.core.losses import Objective
from sedd_cli.core.samplers import Sampler, Stepper
from sedd_cli.core.schedules import Schedule
from sedd_cli.core.score import ScoreModel
from sedd_cli.errors import RequestError, displayed, first_line
from sedd_cli.testing import reference

P = TypeVar("P")
#: Tokens of the problems.
N = 3
F64: dict[str, Any] = {"dtype": torch.float64}
#: Steps (t, s) of a sampler: the longest, a short one, one that is large beside its end, the last of a grid.
INTERVALS = [(1.0, 0.75), (0.6, 0.55), (0.3, 0.001), (1e-3, 1e-5)]


def part_for(check: str, kind: type[P], part: object, **options: Any) -> P:
    """The object that a check is about, with these options, from an object, its class or a function that makes it.

    Raises:
        RequestError: It is none of this kind, or its class has options without defaults.
    """
    found = part
    if isinstance(part, kind):
        found = replace(cast("Any", part), **options) if options else part
    elif callable(part) and (not isinstance(part, type) or issubclass(part, kind)):
        try:
            found = part(**options)
        except TypeError as error:
            name = getattr(part, "__name__", displayed(part))
            raise RequestError(f"{check} cannot make {name}: {first_line(error)}; give an object") from None
    if isinstance(found, kind):
        return found
    named = found.__name__ if isinstance(found, type) else displayed(found)
    wanted = f"an {_kind(kind)}" if kind is Objective else f"a {_kind(kind)}"
    raise RequestError(f"{check} takes {wanted}, its class or an object, found {_kind(found)} {named}")


def _kind(part: object) -> str:
    """The kind of a part; of anything else, its type."""
    cls = part if isinstance(part, type) else type(part)
    known = {Graph: "graph", Schedule: "schedule", Objective: "objective", Sampler: "sampler"}
    kind = next((word for base, word in known.items() if issubclass(cls, base)), None)
    return kind or ("class" if isinstance(part, type) else cls.__name__)


def expect(true: bool, what: str) -> None:
    """AssertionError with this message unless it is true."""
    if not true:
        raise AssertionError(what)


def close(found: Tensor, truth: Tensor, what: str, rtol: float = 1e-9, atol: float = 1e-12) -> None:
    """AssertionError that begins with `what` unless the values agree."""
    torch.testing.assert_close(found.double(), truth.double(), rtol=rtol, atol=atol, msg=lambda text: f"{what}. {text}")


def score_model(graph: Graph, noise: Schedule, score: reference.Score) -> ScoreModel:
    """The package's score model around a network with the given score."""
    scaled = getattr(graph, "scale_by_sigma", False)
    return ScoreModel(reference.Oracle(score, graph.vocab_size if scaled else None), graph, noise)


def noisy(graph: Graph, Q: Tensor, x0: Tensor, sigma: float) -> tuple[Tensor, Tensor]:
    """Uniforms u [M, L] that make `perturb` return each possible x of x0 [L], and p(x | x0) [M]."""
    P = reference.transition(Q, sigma)
    level = torch.tensor([sigma], **F64)
    lam = -torch.expm1(-level)
    S = graph.states
    tries = torch.cat([lam * (torch.arange(S) + 0.5) / S, (1 + lam) / 2])
    choices = []  # for each position: x -> u
    for token in x0.tolist():
        middles = P[:, token].cumsum(0) - P[:, token] / 2  # of a draw by inverse CDF
        every = torch.cat([tries, middles[P[:, token] > 0]])
        found = graph.perturb(torch.full((1, len(every)), token), level, every[None])[0]
        choices.append({int(x): float(u) for x, u in zip(found, every, strict=True)})
    rows = list(itertools.product(*choices))
    u = torch.tensor([[choices[i][x] for i, x in enumerate(row)] for row in rows], **F64)
    weight = torch.stack([torch.stack([P[x, x0[i]] for i, x in enumerate(row)]).prod() for row in rows])
    return u, weight


def probabilities(transition: Transition, x: Tensor) -> Tensor:
    """[..., S] probabilities of a transition: stay or leave, and where to."""
    share = transition.weights.double() / transition.weights.double().sum(-1, keepdim=True).clamp(min=1e-300)
    p = transition.move_probability[..., None] * share
    return p.scatter_add(-1, x[..., None], 1 - transition.move_probability[..., None])


def step_probabilities(sampler: Stepper, model: ScoreModel, x: Tensor, t: float, s: float) -> Tensor:
    """What one step of a sampler does to x [M, L]: probabilities [M, L, S]."""
    times = [torch.full((len(x),), moment, **F64) for moment in (t, s)]
    back = float(sampler.remask_probability(model, *times)[0])
    log_score = model.log_score(x, model.schedule(times[0])[0])
    flat = [value.flatten(0, 1) for value in (log_score, x)]
    later, earlier = (value.repeat_interleave(x.shape[1]) for value in times)
    found = probabilities(sampler.transition(model, flat[0], flat[1], later, earlier), flat[1]).unflatten(0, x.shape)
    mask = model.graph.mask
    if back and mask is not None:  # what the network has no say in
        kept = torch.nn.functional.one_hot(x, model.graph.states).double() * (1 - back)
        kept[..., mask] = back
        found = torch.where(model.graph.active(x)[..., None], found, kept)
    return found


def rounding(Q: Tensor, noise: Schedule, t: float, s: float) -> float:
    """What two forms of a step may differ by: 2^-52 of the entries of exp(-delta_sigma Q)."""
    reach = float(-torch.linalg.eigvals(Q).real.min())
    return 1e-12 + 4 * 2.0**-52 * math.exp(reach * (noise.sigma(t) - noise.sigma(s)))
