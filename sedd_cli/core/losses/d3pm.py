"""Discrete-time diffusion in its mean parametrization (D3PM: Austin et al. 2021)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from sedd_cli.core.discrete_time import noise_of_step, step_noise
from sedd_cli.core.graphs import Graph
from sedd_cli.core.losses.base import (
    OBJECTIVES,
    Objective,
    fused_loss,
    linear_head,
    token_nats,
    weighted_cross_entropy,
)
from sedd_cli.core.schedules import Schedule
from sedd_cli.core.score import Loss, Parametrization, ScoreModel, trained_range


@OBJECTIVES.register
@dataclass(frozen=True)
class D3PM(Objective):
    """T·L_t with t ~ U{1 … T}: the variational bound L_1 + … + L_T of T steps, without its constant prior term.

    L_t = D_KL(p(x_{t−1}|x_t, x0) ‖ p_θ(x_{t−1}|x_t)). The outputs are logits of the clean token. cross_entropy adds
    that much of −log p(x0|x_t) (Austin et al., eq. 5).
    """

    name: ClassVar[str] = "d3pm"
    parametrization: ClassVar[Parametrization] = "mean"
    T: int = 1000
    cross_entropy: float = 0.0

    def __post_init__(self) -> None:
        if self.T < 1:
            raise ValueError(f"T must be at least 1, found {self.T}")
        if not self.cross_entropy >= 0:
            raise ValueError(f"cross_entropy must be at least 0, found {self.cross_entropy}")

    @property
    def logs_bound(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Not with the added cross-entropy."""
        return self.cross_entropy == 0

    @property
    def steps(self) -> int:
        return self.T

    def noise_level(self, graph: Graph, schedule: Schedule, v: Tensor) -> Tensor:
        return noise_of_step(graph, schedule, v, self.T)[1]

    def loss(self, model: ScoreModel, x0: Tensor, v: Tensor, u: Tensor) -> Loss:
        graph = model.graph
        sigma_s, sigma_t = step_noise(model, v, self.T)  # [B]
        x = graph.perturb(x0, sigma_t, u)  # [B, L]
        network_sigma = sigma_t.clamp(*trained_range(model))  # as in `bounds.discrete_bound`
        kernels = model.kernels
        if kernels and (share := kernels.posterior_kl_share(sigma_s, sigma_t)) is not None:
            return weighted_cross_entropy(model, x, network_sigma, x0, self.T * share + self.cross_entropy)
        if kernels and (readout := linear_head(model)):
            batch, position, hidden = model.hidden_rows(x, network_sigma)
            rows = sigma_s[batch], sigma_t[batch], x[batch, position], x0[batch, position]
            if tiles := kernels.posterior_kl_tiles(*rows, self.cross_entropy / self.T):
                return fused_loss(readout, tiles, hidden, (batch, position), torch.full_like(sigma_t, self.T))

        def term(z: Tensor, batch: Tensor, x: Tensor, x0: Tensor) -> Tensor:
            found = self.T * graph.posterior_kl(z, sigma_s[batch], sigma_t[batch], x, x0)
            if self.cross_entropy:
                found = found + self.cross_entropy * token_nats(z, x0, graph.vocab_size)
            return found

        loss = model.row_losses(x, network_sigma, x0, term)
        return Loss(loss.sum(), loss.detach())
