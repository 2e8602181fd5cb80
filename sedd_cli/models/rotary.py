"""Rotary position embedding (Su et al. 2021), half-split, applied to queries and keys."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Rotary(nn.Module):
    """Angles position · base^(−2i/D). `inv_freq` is a buffer because published checkpoints store it."""

    def __init__(self, head_dim: int, base: float = 10_000.0):
        super().__init__()
        self.register_buffer("inv_freq", base ** (-torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim))

    def forward(self, length: int, heads: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """(cos, sin), each [L, heads · head_dim], for heads side by side; made in float32 whatever autocast does.

        sin is negative in the first half of a head, where the second half is taken away.
        """
        angle = torch.outer(torch.arange(length, device=self.inv_freq.device).float(), self.inv_freq.float())
        cos, sin = angle.cos(), angle.sin()
        return tuple(torch.cat(halves, -1).repeat(1, heads).to(dtype) for halves in ((cos, cos), (-sin, sin)))


def rotate(q: Tensor, cos: Tensor, sin: Tensor, head_dim: int) -> Tensor:
    """Rotate the pairs (i, i + head_dim/2) of every head of q [..., L, heads · head_dim] by its position's angles.

    All heads in one row: products run over long rows, and the tables are made once for all blocks.
    """
    first, second = q.unflatten(-1, (-1, 2, head_dim // 2)).unbind(-2)
    return torch.addcmul(q * cos, torch.stack([second, first], -2).flatten(-3), sin)
