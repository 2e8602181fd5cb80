"""Masked cross-entropy, the simple form of masked diffusion (Sahoo et al. 2024, eq. 10; Shi et al. 2024, eq. 5)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from sedd_cli.core.losses.base import OBJECTIVES, ContinuousTime, PositionWeights, Weight, weighted_cross_entropy
from sedd_cli.core.score import Loss, Parametrization, ScoreModel


@OBJECTIVES.register
@dataclass(frozen=True)
class MaskedCrossEntropy(ContinuousTime):
    """w(t)·Σ over MASK of −log p(x0|x), w = σ̄′/expm1(σ̄), t ~ U(t_min, 1).

    The outputs are logits of the clean token; MASK has probability zero, and tokens are carried over. It is the score
    entropy of scores that are normalised by construction.
    """

    name: ClassVar[str] = "masked_cross_entropy"
    logs_bound: ClassVar[bool] = True
    parametrization: ClassVar[Parametrization] = "mean"
    needs_mask: ClassVar[bool] = True

    def weighted(self, model: ScoreModel, x: Tensor, sigma: Tensor, x0: Tensor, weight: Weight) -> Loss:
        at_mask = torch.expm1(sigma)
        if isinstance(weight, PositionWeights):
            weight = replace(weight, logged=weight.logged / at_mask)
        else:
            weight = weight / at_mask
        return weighted_cross_entropy(model, x, sigma, x0, weight)
