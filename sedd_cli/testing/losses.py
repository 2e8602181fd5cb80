"""What holds for every training objective: its expectation is smallest where the network's outputs are the truth."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from sedd_cli.core.graphs import GRAPHS, Graph
from sedd_cli.core.losses import Objective
from sedd_cli.core.schedules import LogLinear
from sedd_cli.core.score import ScoreModel
from sedd_cli.testing import reference
from sedd_cli.testing.problems import F64, N, expect, noisy, part_for

#: Length of the sequences.
L = 2


class _Table:
    """A network with an output of its own for each state of the sequence, at the one sigma that it is asked for."""

    def __init__(self, S: int):
        self.S, self.sigma = S, None
        self.z = torch.zeros(S**L, L, S, **F64)

    def hidden(self, x: Tensor, sigma: Tensor) -> Tensor:
        self.sigma = float(sigma.flatten()[0])
        return self.z[x[:, 0] * self.S + x[:, 1]]

    def head(self, hidden: Tensor) -> Tensor:
        return hidden


def check_loss(part: Objective | Callable[[], Objective]) -> None:
    """Check a training objective, an object or a class whose options have defaults.

    At several noise levels, over all clean and noisy sequences of two out of three tokens: the expected loss has no
    gradient where the outputs are the exact scores (for the parametrisation "score") or the exact distribution of the
    clean token (else), and is larger where they are not.

    Raises:
        AssertionError: Says what fails, on which graph and at which noise level.
        RequestError: It is no objective.
        ValueError: The objective is for causal networks, for which there is no truth here.
    """
    objective = part_for("check_loss", Objective, part)
    if objective.causal:
        raise ValueError(f"{objective.name} is for causal networks: check_loss has no reference for them")
    both = [GRAPHS["absorbing"](vocab_size=N, scale_by_sigma=False), GRAPHS["uniform"](vocab_size=N)]
    for graph in [graph for graph in both if _takes(objective, graph)] or [GRAPHS["state_dependent"](vocab_size=N)]:
        for v in (0.15, 0.5, 0.9):
            check_minimum(objective, graph, v)


def _takes(objective: Objective, graph: Graph) -> bool:
    try:
        objective.check(graph)
    except ValueError:
        return False
    return True


def check_minimum(objective: Objective, graph: Graph, v: float) -> None:
    """The expected loss at the noise level of the uniform number v is smallest at the truth."""
    Q, net = graph.rate_matrix, _Table(graph.states)
    p0 = reference.source(N, L, len(Q))
    model = ScoreModel(net, graph, LogLinear(), parametrization=objective.parametrization)  # type: ignore[arg-type]
    name = f"{type(objective).__name__} on {graph.name}"
    sigma = _noise_of(objective, model, net, v, name)
    truth = _truth(objective, graph, p0, Q, sigma)
    where = f"{name} at sigma {sigma:.3g}"
    at, slope = _expected(objective, model, net, truth, p0, Q, v, sigma, where)
    off = 0.5 * torch.randn(truth.shape, generator=torch.Generator().manual_seed(0), **F64)
    for sign in (-1, 1):
        beside, steep = _expected(objective, model, net, truth + sign * off, p0, Q, v, sigma, where)
        expect(beside > at, f"{where}: the loss is {at:.6g} at the true outputs and {beside:.6g}, no more, beside them")
        expect(
            slope < 1e-3 * steep, f"{where}: the gradient at the true outputs is {slope:.3g}, beside them {steep:.3g}"
        )


def _noise_of(objective: Objective, model: ScoreModel, net: _Table, v: float, name: str) -> float:
    """The sigma that the objective chooses for v; and the shapes of what it returns."""
    B = 16
    u = torch.linspace(0.001, 0.999, B * L, **F64).view(B, L)
    u = u.repeat(1, objective.corruptions)
    found = objective.loss(model, torch.zeros(B, L, dtype=torch.int64), torch.full((B,), v, **F64), u)
    expect(found.total.shape == (), f"{name}: the total has the shape {tuple(found.total.shape)}, a scalar is needed")
    shape = tuple(found.sequences.shape)
    expect(shape == (B,), f"{name}: the sequences' losses have the shape {shape}, {(B,)} is needed")
    expect(bool(found.sequences.isfinite().all()), f"{name}: a loss is not finite")
    expect(net.sigma is not None, f"{name}: the network was not asked for outputs")
    assert net.sigma is not None
    return net.sigma


def _truth(objective: Objective, graph: Graph, p0: Tensor, Q: Tensor, sigma: float) -> Tensor:
    """The outputs [S^L, L, S] of a perfect network."""
    xs = reference.sequences(graph.states, L)
    if objective.parametrization == "score":
        return reference.exact_score(p0, Q)(xs, sigma).nan_to_num(1.0, 1.0).log().clamp(-60, 60)
    clean = reference.clean_posterior(p0, Q, N)(xs, sigma).nan_to_num(1.0).log().clamp(min=-60)
    return torch.cat([clean, torch.zeros(*clean.shape[:-1], graph.states - N, **F64)], -1)


def _expected(
    objective: Objective, model: ScoreModel, net: _Table, z: Tensor, p0: Tensor, Q: Tensor, v: float, sigma: float,
    where: str,
) -> tuple[float, float]:  # fmt: skip
    """The expected loss at outputs z over clean and noisy sequences, and the largest entry of its gradient."""
    net.z = z.clone().requires_grad_()
    total = torch.zeros((), **F64)
    for weight, x0, u in _cases(model.graph, p0, Q, sigma):
        found = objective.loss(model, x0[None], torch.tensor([v], **F64), u.repeat(objective.corruptions)[None])
        one, other = float(found.total.detach()), float(found.sequences.sum().detach())
        total = total + weight * (found.total if found.total.requires_grad else found.total.detach())
        expect(not objective.direct or abs(one - other) < 1e-4 * (1 + abs(one)),
               f"{where}: the total is {one:.6g}, the sum of the sequences' losses {other:.6g}")  # fmt: skip
    expect(total.requires_grad, f"{where}: the total has no gradient")
    (gradient,) = torch.autograd.grad(total, net.z)
    return float(total.detach()), float(gradient.abs().max())


def _cases(graph: Graph, p0: Tensor, Q: Tensor, sigma: float) -> Iterator[tuple[float, Tensor, Tensor]]:
    """(probability, x0 [L], uniforms [L]) of every clean sequence and every noisy one that it can become."""
    for x0 in reference.sequences(N, L):
        u, weight = noisy(graph, Q, x0, sigma)
        for row, chance in zip(u, weight.tolist(), strict=True):
            yield float(p0[tuple(x0.tolist())]) * chance, x0, row
