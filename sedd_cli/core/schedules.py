"""Noise schedules: the total noise σ̄(t) and its rate. A new one is a class here."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from sedd_cli.core.registry import Registry

SCHEDULES = Registry("noise")

#: Smallest time that networks are trained at (appendix C.2).
T_MIN = 1e-3


@dataclass(frozen=True)
class Schedule(ABC):
    """σ̄: [0, 1] → total noise. Fields are the recipe's options."""

    name: ClassVar[str]

    @abstractmethod
    def __call__(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """(sigma, dsigma) = (σ̄(t), σ̄′(t)), both of t's shape and dtype."""

    @abstractmethod
    def t(self, sigma: Tensor) -> Tensor:
        """The inverse: the t at which σ̄(t) = sigma."""

    def sigma(self, t: float) -> float:
        """σ̄(t) of a single t, in float64."""
        return float(self(torch.tensor(t, dtype=torch.float64))[0])


@SCHEDULES.register
@dataclass(frozen=True)
class LogLinear(Schedule):
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


@SCHEDULES.register
@dataclass(frozen=True)
class Geometric(Schedule):
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
