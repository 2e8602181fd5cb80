"""The plain paths that the fast ones are compared with: scores of all positions, every [B, L, S] tensor.

They compute in float32, and where bf16 is native under bf16 autocast too.

They follow the formulas in the order of the paper; score entropy has its closed form where the graph has one.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sedd_cli.core.bounds import T_MIN
from sedd_cli.core.fast import kernels_of
from sedd_cli.core.graphs import Graph
from sedd_cli.core.losses import Objective
from sedd_cli.core.losses.score_entropy import score_entropy
from sedd_cli.core.schedules import Schedule
from sedd_cli.core.score import ScoreModel
from sedd_cli.models.dit import DiT
from sedd_cli.recipe.assemble import with_exponents

#: The graphs of the published code, whose sampling step `tweedie_step` is.
PUBLISHED = ("absorbing", "uniform")


@dataclass(frozen=True)
class AllAtOnce(ScoreModel):
    """Scores of all rows in one tensor."""

    def block(self, device: torch.device) -> int:
        return 2**40


@dataclass(frozen=True)
class Unfused:
    """A network whose head has no fused loss."""

    net: DiT

    def hidden(self, x: Tensor, sigma: Tensor) -> Tensor:
        return self.net.hidden(x, sigma)

    def head(self, hidden: Tensor) -> Tensor:
        return self.net.head(hidden)


def training_loss(
    objective: Objective, net: DiT, graph: Graph, schedule: Schedule, x0: Tensor, v: Tensor, u: Tensor
) -> Tensor:
    """The mean training loss of an objective over a batch: score entropy as published, others without fused losses."""
    if objective.name == "score_entropy":
        return loss(net, graph, schedule, x0, v, u)
    parts = with_exponents(graph, net), schedule
    model = AllAtOnce(Unfused(net), *parts, parametrization=objective.parametrization)
    return objective.loss(model, x0, v, u).total / len(x0)


def loss(net: DiT, graph: Graph, schedule: Schedule, x0: Tensor, v: Tensor, u: Tensor) -> Tensor:
    """The mean training loss over a batch (algorithm 1), scores of all positions [B, L, S] at once."""
    sigma, dsigma = schedule(T_MIN + (1 - T_MIN) * v)
    x = graph.perturb(x0, sigma, u)
    z = net(x, sigma)
    return (dsigma.to(z.dtype) * _score_entropy(graph, graph.log_score(z, sigma, x), sigma, x, x0).sum(-1)).mean()


def _score_entropy(graph: Graph, log_score: Tensor, sigma: Tensor, x: Tensor, x0: Tensor) -> Tensor:
    """Score entropy [B, L] from all scores, in closed form where the graph has one."""
    kernels = kernels_of(graph)
    if kernels is None:
        return score_entropy(graph, log_score, sigma, x, x0)
    return kernels.score_entropy(log_score, sigma, x, x0)


def head(hidden: Tensor, weight: Tensor, bias: Tensor, autocast: torch.dtype | None = None) -> Tensor:
    """z [..., S] in float32 of the trunk's output [..., D], the product in float32 or under autocast."""
    with torch.autocast(hidden.device.type, autocast, enabled=autocast is not None):
        return torch.nn.functional.linear(hidden, weight, bias).to(torch.promote_types(hidden.dtype, torch.float32))


def head_loss(z: Tensor, graph: Graph, sigma: Tensor, x: Tensor, x0: Tensor) -> Tensor:
    """The sum of the score entropy over all positions, from the network's output [B, L, S]."""
    return _score_entropy(graph, graph.log_score(z, sigma, x), sigma, x, x0).sum()


def tweedie_step(
    net: DiT, graph: Graph, schedule: Schedule, x: Tensor, t: float, s: float, generator: torch.Generator | None = None
) -> Tensor:
    """A Tweedie step of x [B, L] as published (algorithm 2): staggered score, transition, float32 draw.

    graph: one of PUBLISHED.
    """
    assert graph.name in PUBLISHED, graph.name
    sigma, sigma_next = (schedule(torch.full((len(x),), w, dtype=torch.float64, device=x.device))[0] for w in (t, s))
    score = graph.log_score(net(x, sigma), sigma, x).exp()
    delta = (sigma - sigma_next).float()[:, None, None]
    # (e^{−ΔσQ} s)_y: entries grow by e^Δσ; the excess is taken from MASK, or from all states if there is none
    extra = (1 - delta.exp()) * score.sum(-1, keepdim=True)
    score = score * delta.exp()
    # e^{ΔσQ}(x, y)
    move = torch.nn.functional.one_hot(x, graph.states).float() * torch.exp(-delta)
    if graph.mask is None:
        score += extra / graph.vocab_size
        move += (1 - torch.exp(-delta)) / graph.vocab_size
    else:
        score[..., -1:] += extra
        move += torch.where(x == graph.mask, 1 - torch.exp(-delta[..., 0]), 0.0)[..., None]
    probabilities = score * move
    race = 1e-10 - (torch.rand(probabilities.shape, generator=generator, device=x.device) + 1e-10).log()
    return (probabilities / race).argmax(-1)
