"""Layers the blocks of the network are made of: normalisation, embeddings, modulation, dropout."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

#: Values of the random number of an element.
LEVELS = 2**16


def full_precision(h: Tensor) -> Tensor:
    """h in float32 or better, whatever autocast did to it."""
    return h if h.dtype == torch.float64 else h.float()


class LayerNorm(nn.Module):
    """Layer normalisation over the last axis with a gain and no bias, computed in float32."""

    def __init__(self, dim: int):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, h: Tensor) -> Tensor:
        h = full_precision(h)
        return F.layer_norm(h, self.weight.shape, self.weight.to(h.dtype), eps=1e-5)


class Embedding(nn.Module):
    """Token embedding [S, D], separate from the output matrix."""

    def __init__(self, states: int, dim: int):
        super().__init__()
        self.embedding = nn.Parameter(torch.empty(states, dim))
        nn.init.kaiming_uniform_(self.embedding, a=math.sqrt(5))

    def forward(self, x: Tensor) -> Tensor:
        return F.embedding(x, self.embedding)


class SigmaEmbedding(nn.Module):
    """Sinusoidal features of the total noise sigma, then a two-layer perceptron: [B] → [B, cond_dim]."""

    features = 256
    max_period = 10_000.0

    def __init__(self, cond_dim: int):
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(self.features, cond_dim), nn.SiLU(), nn.Linear(cond_dim, cond_dim))

    def forward(self, sigma: Tensor) -> Tensor:
        half = self.features // 2
        # float32 on purpose: bfloat16 would blur neighbouring noise levels
        freqs = torch.exp(-math.log(self.max_period) / half * torch.arange(half, device=sigma.device).float())
        angle = full_precision(sigma)[:, None] * freqs
        return self.mlp(torch.cat([angle.cos(), angle.sin()], dim=-1).to(self.mlp[0].weight.dtype))


def modulate(h: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """h·(1 + scale) + shift, with shift and scale [B, 1, D] or [B, D] matching h."""
    return torch.addcmul(shift, h, 1 + scale)


def dropout(h: Tensor, p: float) -> Tensor:
    """h with each element 0 with probability p, and the others divided by 1 − p.

    On a CPU torch draws one number of 32 bits after another, which takes longer than the attention of a short block.
    Here an element takes 16 bits of torch's default generator, and p is rounded to a multiple of 2⁻¹⁶.
    """
    cut = round(p * LEVELS)
    if not cut:
        return h
    if h.device.type != "cpu" or cut == LEVELS:
        return F.dropout(h, p)
    words = torch.empty(-(-h.numel() // 4), dtype=torch.int64).random_(-(2**63), None)
    kept = words.view(torch.int16)[: h.numel()].view(h.shape) >= cut - LEVELS // 2
    return torch.where(kept, h * (LEVELS / (LEVELS - cut)), 0.0)  # a mask in bf16 would round the factor
