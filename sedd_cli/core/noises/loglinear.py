"""Loglinear noise: the share of moved tokens grows linearly in t (appendix C.1)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from sedd_cli.core.noises.base import NOISES, Noise


@NOISES.register
@dataclass(frozen=True)
class LogLinear(Noise):
    """σ̄(t) = −log(1 − (1−ε)t), so λ = 1 − e^{−σ̄} = (1−ε)t.

    The paper prints 1 − (1−εt); its code computes this form, and so do we.
    """

    name: ClassVar[str] = "loglinear"
    eps: float = 1e-3

    def __post_init__(self) -> None:
        if not 0 < self.eps < 1:
            raise ValueError(f"eps must lie in (0, 1), found {self.eps}")

    def __call__(self, t: Tensor) -> tuple[Tensor, Tensor]:
        keep = 1 - self.eps
        return -torch.log1p(-keep * t), keep / (1 - keep * t)

    def t(self, sigma: Tensor) -> Tensor:
        return -torch.expm1(-sigma) / (1 - self.eps)
