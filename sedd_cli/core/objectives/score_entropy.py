"""Diffusion-weighted denoising score entropy (theorem 3.6, algorithm 1)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from sedd_cli.core.likelihood import T_MIN
from sedd_cli.core.objectives.base import OBJECTIVES, Objective
from sedd_cli.core.score import Loss, ScoreModel


@OBJECTIVES.register
@dataclass(frozen=True)
class ScoreEntropy(Objective):
    """The paper's loss, which is its own likelihood bound: t ~ U(t_min, 1)."""

    name: ClassVar[str] = "score_entropy"
    t_min: float = T_MIN

    def __post_init__(self) -> None:
        if not 0 < self.t_min < 1:
            raise ValueError(f"t_min must lie in (0, 1), found {self.t_min}")

    def loss(self, model: ScoreModel, x0: Tensor, v: Tensor, u: Tensor) -> Loss:
        # the estimate of likelihood.paper_bound, with its gradient
        sigma, dsigma = model.noise(self.t_min + (1 - self.t_min) * v)
        return model.weighted_score_entropy(model.graph.perturb(x0, sigma, u), sigma, x0, dsigma)
