"""Discrete-time diffusion in its mean parametrisation (D3PM: Austin et al. 2021)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from sedd_cli.core.bounds import discrete_noise, trained_range
from sedd_cli.core.losses.base import OBJECTIVES, Objective
from sedd_cli.core.score import Loss, ScoreModel


@OBJECTIVES.register
@dataclass(frozen=True)
class D3PM(Objective):
    """T·L_t with t ~ U{1 … T}: the variational bound L_1 + … + L_T of T steps, but for its constant prior term.

    The outputs are logits of the clean token. cross_entropy adds that much of −log p(x0|x_t) (Austin et al., eq. 5).
    """

    name: ClassVar[str] = "d3pm"
    mean: ClassVar[bool] = True
    T: int = 1000
    cross_entropy: float = 0.0

    def __post_init__(self) -> None:
        if self.T < 1:
            raise ValueError(f"T must be at least 1, found {self.T}")
        if not self.cross_entropy >= 0:
            raise ValueError(f"cross_entropy must be at least 0, found {self.cross_entropy}")

    @property
    def steps(self) -> int:
        return self.T

    def loss(self, model: ScoreModel, x0: Tensor, v: Tensor, u: Tensor) -> Loss:
        graph = model.graph
        sigma_s, sigma_t = discrete_noise(model, v, self.T)

        def term(z: Tensor, batch: Tensor, x: Tensor, x0: Tensor) -> Tensor:
            found = self.T * graph.posterior_kl(z, sigma_s[batch], sigma_t[batch], x, x0)
            if self.cross_entropy:
                p = z[:, : graph.vocab_size].log_softmax(-1)
                found = found - self.cross_entropy * p.gather(-1, x0[:, None])[:, 0]
            return found

        told = sigma_t.clamp(*trained_range(model))
        loss = model.row_losses(graph.perturb(x0, sigma_t, u), told, x0, term)
        return Loss(loss.sum(), loss.detach())
