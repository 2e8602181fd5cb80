"""Layers the blocks of the network are made of: normalisation, embeddings, modulation, dropout."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

#: Number of values of an element's random number.
LEVELS = 2**16


def full_precision(h: Tensor) -> Tensor:
    """h in float32 or better, also where autocast has lowered its precision."""
    return h if h.dtype == torch.float64 else h.float()


class LayerNorm(nn.Module):
    """Layer normalisation over the last axis with a gain and mostly without a bias, computed in float32."""

    def __init__(self, dim: int, bias: bool = False):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))
        self.bias = nn.Parameter(torch.zeros(dim)) if bias else None

    def forward(self, h: Tensor) -> Tensor:
        h = full_precision(h)
        bias = None if self.bias is None else self.bias.to(h.dtype)
        return F.layer_norm(h, self.weight.shape, self.weight.to(h.dtype), bias, eps=1e-5)


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
        return self.mlp(torch.cat([angle.cos(), angle.sin()], dim=-1).to(next(self.mlp.parameters()).dtype))


def modulate(h: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """h·(1 + scale) + shift, with shift and scale [B, 1, D] or [B, D] matching h."""
    return torch.addcmul(shift, h, 1 + scale)


def dropout(h: Tensor, p: float) -> Tensor:
    """h with each element 0 with probability p, and the others divided by 1 − p.

    On a CPU torch draws 32 bits per element one by one, which takes longer than the attention of a short block. Here an
    element takes 16 bits of torch's default generator, and p is rounded to a multiple of 2⁻¹⁶. In compiled code on a
    GPU it is `hashed_dropout`.
    """
    cut = round(p * LEVELS)
    if not cut:
        return h
    if h.is_cuda and torch.compiler.is_compiling() and 0 < cut < LEVELS:
        return hashed_dropout(h, cut)
    if h.device.type != "cpu" or cut == LEVELS:
        return F.dropout(h, p)
    words = torch.empty(-(-h.numel() // 4), dtype=torch.int64).random_(-(2**63), None)
    kept = words.view(torch.int16)[: h.numel()].view(h.shape) >= cut - LEVELS // 2
    return torch.where(kept, h * (LEVELS / (LEVELS - cut)), 0.0)  # a mask in bf16 would round the factor


def hashed_dropout(h: Tensor, cut: int) -> Tensor:
    """`dropout` with p = cut/LEVELS, from a hash of the element's number and of two words of torch's generator.

    Compiled, it costs a few integer operations an element, and the backward pass keeps the two words and no mask, where
    torch's dropout computes ten rounds of Philox an element, twice, or keeps a mask.
    """
    seed = torch.randint(-(2**31), 2**31 - 1, (2,), device=h.device).to(torch.int32)
    number = torch.arange(h.numel(), dtype=torch.int32, device=h.device).view(h.shape)
    word = _mix(_mix(number ^ seed[0]) ^ seed[1])
    return torch.where((word & (LEVELS - 1)) >= cut, h * (LEVELS / (LEVELS - cut)), 0.0)


def _mix(word: Tensor) -> Tensor:
    """A bijection of 32-bit words that mixes well: xor-shifts and products (C. Wellons, "lowbias32")."""
    word = word ^ ((word >> 16) & 0xFFFF)  # the mask makes the shift of a signed word a logical one
    word = word * 0x7FEB352D
    word = word ^ ((word >> 15) & 0x1FFFF)
    word = word * (0x846CA68B - 2**32)
    return word ^ ((word >> 16) & 0xFFFF)
