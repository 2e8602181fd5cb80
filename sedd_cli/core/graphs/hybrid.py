"""The hybrid graph: tokens turn into MASK and into other tokens (after GIDD, von Rütte et al. 2025)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from sedd_cli.core.graphs.base import GRAPHS
from sedd_cli.core.graphs.with_mask import WithMask


@GRAPHS.register
@dataclass(frozen=True)
class Hybrid(WithMask):
    """Q = mask_rate·(absorbing) + uniform_rate·(uniform on the tokens). MASK is state N and is never left."""

    name: ClassVar[str] = "hybrid"
    mask_rate: float = 1.0
    uniform_rate: float = 0.2

    def __post_init__(self) -> None:
        super().__post_init__()
        for key in ("mask_rate", "uniform_rate"):
            if not 0 < getattr(self, key) < float("inf"):
                raise ValueError(f"{key} must be positive and finite, found {getattr(self, key)}")

    def rate(self, x: Tensor) -> Tensor:
        here = F.one_hot(x, self.states).double()
        to_token = self.uniform_rate * (self._is_token(x) / self.vocab_size - here)
        to_mask = self.mask_rate * (self._is_mask(x) - here)
        return torch.where(x[..., None] == self.mask, 0.0, to_token + to_mask)

    def transition(self, sigma: Tensor, x: Tensor) -> Tensor:
        # MASK with probability 1 − e^{−aσ}; otherwise the uniform graph's transition over bσ
        here, sigma = F.one_hot(x, self.states).double(), sigma.double()[..., None]
        moved = -torch.expm1(-self.uniform_rate * sigma)
        token = here * torch.exp(-self.uniform_rate * sigma) + moved * self._is_token(x) / self.vocab_size
        p = torch.exp(-self.mask_rate * sigma) * token - torch.expm1(-self.mask_rate * sigma) * self._is_mask(x)
        return torch.where(x[..., None] == self.mask, here, p)

    def _is_token(self, x: Tensor) -> Tensor:
        return 1 - self._is_mask(x)
