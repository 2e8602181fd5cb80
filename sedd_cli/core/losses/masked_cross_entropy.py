"""Masked cross-entropy, the simple form of masked diffusion (Sahoo et al. 2024, eq. 10; Shi et al. 2024, eq. 5)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from sedd_cli.core.losses.base import OBJECTIVES
from sedd_cli.core.losses.score_entropy import ScoreEntropy


@OBJECTIVES.register
@dataclass(frozen=True)
class MaskedCrossEntropy(ScoreEntropy):
    """w(t)·Σ over masks of CE, w = σ̄′/expm1(σ̄): score entropy of scores that are normalised by construction.

    The outputs are logits of the clean token; MASK has probability zero, and tokens that stand are carried over.
    """

    name: ClassVar[str] = "masked_cross_entropy"
    mean: ClassVar[bool] = True
    needs_mask: ClassVar[bool] = True
