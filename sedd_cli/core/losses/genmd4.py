"""GenMD4: masked diffusion that learns when each token is masked (Shi et al. 2024, section 6)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from sedd_cli.core.fast.exponents import ExponentTiles
from sedd_cli.core.graphs import Graph
from sedd_cli.core.losses.base import OBJECTIVES, Objective, fused_loss, linear_head, summed, token_nats
from sedd_cli.core.schedules import T_MIN, Schedule
from sedd_cli.core.score import Loss, Parametrization, ScoreModel


@OBJECTIVES.register
@dataclass(frozen=True)
class GenMD4(Objective):
    """The bound of state-dependent masking, minimised over the network and over the exponents w of the graph.

    At time t ~ U(t_min, 1), with the probability μ_y that the network gives token y and λ′/λ = σ̄′/expm1(σ̄),

        λ′/λ · Σ over MASK of (−w_{x0}·log μ_{x0} − w_{x0} + Σ_y w_y·μ_y),

    the score entropy of the graph `state_dependent`. The mean over t is a bound on −log p of a model, so that the
    exponents gain nothing by masking tokens where no loss is taken. For that, both ends of time count. Token v is MASK
    with probability λ_v(t)/λ_v(1): at t = 1 all tokens are, as where samplers start. Below t_min it is decoded with
    probability ∝ λ_v(t_min)/λ_v(1), whatever the network.

    The corruption x depends on w, too. That part of the gradient, E[loss·∇ log p(x|x0)], is estimated from two
    independent corruptions, each with the loss of the other as its baseline: (loss_1 − loss_2)·∇(log p_1 − log p_2)/2
    (REINFORCE leave-one-out). The loss is the mean of both. With learn=False the exponents stay what the graph has: the
    control that separates the gain of learning them from that of two corruptions.
    """

    name: ClassVar[str] = "genmd4"
    logs_bound: ClassVar[bool] = True
    parametrization: ClassVar[Parametrization] = "mean"
    corruptions: ClassVar[int] = 2
    t_min: float = T_MIN
    learn: bool = True

    def __post_init__(self) -> None:
        if not 0 < self.t_min < 1:
            raise ValueError(f"t_min must lie in (0, 1), found {self.t_min}")

    @property
    def learns_exponents(self) -> bool:
        return self.learn

    def check(self, graph: Graph) -> None:
        super().check(graph)
        if not graph.learnable:
            raise ValueError(
                f"{self.name} learns when each token turns into MASK, the graph {graph.name} has nothing to learn: set "
                "graph=state_dependent"
            )

    def noise_level(self, graph: Graph, schedule: Schedule, v: Tensor) -> Tensor:
        return _from_all_mask(schedule, schedule(self.t_min + (1 - self.t_min) * v)[0])

    def loss(self, model: ScoreModel, x0: Tensor, v: Tensor, u: Tensor) -> Loss:
        graph, count = model.graph, self.corruptions
        sigma, dsigma = model.schedule(self.t_min + (1 - self.t_min) * v)  # [B]
        level, clean = sigma.repeat(count), x0.repeat(count, 1)  # one corruption after the other
        noise = _from_all_mask(model.schedule, level)
        x = graph.perturb(clean, noise, torch.cat(u.chunk(count, 1)))  # [2B, L]
        weight = (1 - self.t_min) * dsigma / torch.expm1(sigma)
        at_mask = _at_mask(model, x, level, clean, weight.repeat(count))
        losses = at_mask.sequences.double().view(count, -1)
        log_p = graph.log_probability(noise, x, clean).sum(-1).view(count, -1)
        learning = 0.5 * ((losses - losses.flip(0)) * log_p).sum()
        below = self._below_t_min(model, x0)
        total = at_mask.total / count + below.sum() + (learning - learning.detach())
        return Loss(total, losses.mean(0) + below.detach())

    def _below_t_min(self, model: ScoreModel, x0: Tensor) -> Tensor:
        """p_{x0}·(−log(p_{x0}/Σ_y p_y)) with p_v = λ_v(t_min)/λ_v(1), summed over the sequence: nats [B] float64."""
        at_end = torch.tensor(model.schedule.sigma(self.t_min), dtype=torch.float64, device=x0.device)
        at_end = _from_all_mask(model.schedule, at_end)
        graph = model.graph
        tokens = torch.arange(graph.vocab_size, device=x0.device)
        log_lambda = graph.log_probability(at_end, torch.full_like(tokens, graph.mask_state), tokens)
        nats = log_lambda.exp() * (log_lambda.logsumexp(0) - log_lambda)
        return nats[x0].sum(-1)


def _at_mask(model: ScoreModel, x: Tensor, sigma: Tensor, x0: Tensor, weight: Tensor) -> Loss:
    """weight [B] times Σ over MASK of w_{x0}·(−log μ_{x0} − 1) + Σ_y w_y·μ_y; fused where the head is linear."""
    w = model.graph.exponents.to(x.device)
    if readout := linear_head(model):
        batch, position, hidden = model.hidden_rows(x, sigma)
        return fused_loss(readout, ExponentTiles(x0[batch, position], w), hidden, (batch, position), weight)

    def term(z: Tensor, batch: Tensor, x: Tensor, x0: Tensor) -> Tensor:
        mu = z[:, : len(w)].softmax(-1, dtype=torch.float64)
        return w[x0] * (token_nats(z, x0, len(w)).double() - 1) + mu @ w

    return summed(model.row_losses(x, sigma, x0, term).double(), weight)


def _from_all_mask(schedule: Schedule, sigma: Tensor) -> Tensor:
    """The noise [...] at which λ is λ(sigma)/λ(t = 1), float64."""
    share = torch.expm1(-sigma.double()) / math.expm1(-schedule.sigma(1.0))
    return -torch.log1p(-share.clamp(max=1.0))  # rounding might lead above 1
