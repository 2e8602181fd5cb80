"""Rotary position embedding (Su et al. 2021), half-split, applied to queries and keys."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Rotary(nn.Module):
    """Angles position · base^(−2i/D). `inv_freq` is a buffer because published checkpoints store it."""

    def __init__(self, head_dim: int, base: float = 10_000.0):
        super().__init__()
        self.register_buffer("inv_freq", base ** (-torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim))

    def forward(self, length: int) -> tuple[Tensor, Tensor]:
        """(cos, sin), each [L, head_dim], float32 whatever autocast does."""
        angle = torch.outer(torch.arange(length, device=self.inv_freq.device).float(), self.inv_freq.float())
        angle = torch.cat([angle, angle], dim=-1)
        return angle.cos(), angle.sin()


def rotate(q: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate the pairs (i, i + D/2) of q [..., L, D] by the angles; keeps q's dtype."""
    first, second = q.chunk(2, dim=-1)
    return q * cos.to(q.dtype) + torch.cat([-second, first], dim=-1) * sin.to(q.dtype)
