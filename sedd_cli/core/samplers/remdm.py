"""Remasking: tokens may turn back into MASK and be drawn again (ReMDM: Wang, Schiff, Sahoo, Kuleshov 2025)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from sedd_cli.core.fast import Kernels
from sedd_cli.core.graphs import Transition
from sedd_cli.core.samplers.base import SAMPLERS
from sedd_cli.core.samplers.euler import euler_step
from sedd_cli.core.samplers.stepper import GridStep, Stepper
from sedd_cli.core.score import ScoreModel


@SAMPLERS.register
@dataclass(frozen=True)
class ReMDM(Stepper):
    """The capped schedule: from t to s a token turns into MASK with probability ρ = min(η, (1 − α_s)/α_t), α = e^{−σ̄}.

    A MASK is unmasked with probability (α_s − (1 − ρ)α_t)/(1 − α_t), so that as many tokens are unmasked at s as
    without remasking. η = 0 is Tweedie.
    """

    name: ClassVar[str] = "remdm"
    needs_mask: ClassVar[bool] = True
    eta: float = 0.02

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.eta <= 1:
            raise ValueError(f"eta must lie in [0, 1], found {self.eta}")

    def distribution_options(self) -> dict[str, Any]:
        return super().distribution_options() | {"eta": self.eta}

    def remask_probability(self, model: ScoreModel, t: Tensor, s: Tensor) -> Tensor:
        sigma_t, sigma_s = model.schedule(t)[0], model.schedule(s)[0]
        return (-torch.expm1(-sigma_s) * sigma_t.exp()).clamp(max=self.eta)

    def transition(self, model: ScoreModel, log_score: Tensor, x: Tensor, t: Tensor, s: Tensor) -> Transition:
        return euler_step(model.graph, log_score, x, self.coefficient(model, t, s))

    def fast_transition(self, kernels: Kernels[Any], step: GridStep, log_score: Tensor, x: Tensor) -> Transition:
        return kernels.euler(log_score, x, step.coefficient.expand(x.shape))

    def move_bound(self, kernels: Kernels[Any], step: GridStep, total: Tensor, x: Tensor) -> Tensor:
        return kernels.euler_bound(total, x, step.coefficient.expand(x.shape))

    def coefficient(self, model: ScoreModel, t: Tensor, s: Tensor) -> Tensor:
        """What s_y is multiplied by, [R]: α_s/α_t − 1 + ρ, where Σ_y s_y = α_t/(1 − α_t) for normalised scores."""
        return torch.expm1(model.schedule(t)[0] - model.schedule(s)[0]) + self.remask_probability(model, t, s)
