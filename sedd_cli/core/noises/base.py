"""The schedule σ̄(t) of total noise and its rate."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from sedd_cli.core.registry import Registry

NOISES = Registry("noise")


@dataclass(frozen=True)
class Noise(ABC):
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
