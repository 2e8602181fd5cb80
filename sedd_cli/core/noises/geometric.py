"""Geometric noise: log σ̄ grows linearly in t (appendix C.1)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from sedd_cli.core.noises.base import NOISES, Noise


@NOISES.register
@dataclass(frozen=True)
class Geometric(Noise):
    """σ̄(t) = σmin^{1−t}·σmax^t. The paper uses (1e-5, 20), the published configuration (1e-4, 20)."""

    name: ClassVar[str] = "geometric"
    sigma_min: float = 1e-4
    sigma_max: float = 20.0

    def __post_init__(self) -> None:
        if not 0 < self.sigma_min < self.sigma_max:
            raise ValueError(
                f"sigma_min and sigma_max must satisfy 0 < sigma_min < sigma_max, "
                f"found {self.sigma_min} and {self.sigma_max}"
            )

    @property
    def _log_ratio(self) -> float:
        return math.log(self.sigma_max / self.sigma_min)

    def __call__(self, t: Tensor) -> tuple[Tensor, Tensor]:
        sigma = self.sigma_min * (self._log_ratio * t).exp()
        return sigma, sigma * self._log_ratio

    def t(self, sigma: Tensor) -> Tensor:
        return (sigma / self.sigma_min).log() / self._log_ratio
