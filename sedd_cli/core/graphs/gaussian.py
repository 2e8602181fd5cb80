"""Discretised Gaussian transitions between ordered states (D3PM: Austin et al. 2021, appendix A.2.2)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from sedd_cli.core.graphs.base import GRAPHS
from sedd_cli.core.graphs.symmetric import Symmetric

#: A narrower kernel has the same rates in float64, and its square may be 0.
NARROWEST = 1e-9


@GRAPHS.register
@dataclass(frozen=True)
class Gaussian(Symmetric):
    """Rates between tokens fall with the distance d of their ids as exp(−d²/(2w²)), w = width·(N − 1).

    Of characters and bytes the order of ids is that of code points; other vocabularies have none. D3PM's matrix of a
    step has the same form, exp(−4d²/((N−1)²·β)), with width² = β/8; there β grows in time, here one generator acts all
    the time. Narrow kernels keep fine modes, which the Tweedie step magnifies: `euler` suits them.
    """

    name: ClassVar[str] = "gaussian"
    ordered: ClassVar[bool] = True
    width: float = 0.35

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.width < float("inf"):
            raise ValueError(f"width must be positive and finite, found {self.width}")

    def weights(self) -> Tensor:
        state = torch.arange(self.vocab_size, dtype=torch.float64)
        distance = (state[:, None] - state) / max(1, self.vocab_size - 1)
        # relative to neighbours, whose rate would underflow with a narrow kernel
        nearest = 1 / max(1, self.vocab_size - 1)
        return torch.exp((nearest**2 - distance**2) / (2 * max(self.width, NARROWEST) ** 2))
