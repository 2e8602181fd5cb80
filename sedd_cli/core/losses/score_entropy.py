"""Diffusion-weighted denoising score entropy (theorem 3.6, algorithm 1)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from sedd_cli.core.losses.base import OBJECTIVES, ContinuousTime
from sedd_cli.core.score import Loss, ScoreModel


@OBJECTIVES.register
@dataclass(frozen=True)
class ScoreEntropy(ContinuousTime):
    """The paper's loss, which is its own likelihood bound: t ~ U(t_min, 1)."""

    name: ClassVar[str] = "score_entropy"

    def loss(self, model: ScoreModel, x0: Tensor, v: Tensor, u: Tensor) -> Loss:
        # the estimate of likelihood.paper_bound, with its gradient
        sigma, dsigma = self.noise_at(model, v)
        return model.weighted_score_entropy(model.graph.perturb(x0, sigma, u), sigma, x0, dsigma)
