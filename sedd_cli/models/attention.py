"""Attention, bidirectional or causal, in several kernels chosen by name, and its rotary position embedding."""

from __future__ import annotations

import functools
import importlib.util

import torch
import torch.nn.functional as F
from torch import Tensor, nn

#: Up to this length explicit bf16 attention beats scaled_dot_product_attention on a CPU, three times over
#: with its backward pass at lengths 64 and 128 (Xeon with AMX, 2 threads). At 1024 it loses: 39 ms to 10 forward, 56 to
#: 51 backward (SEDD small, B=2), and a backward pass head by head in buffers that stay in the cache takes as long.
PLAIN_UP_TO = 256


def sdpa(q: Tensor, k: Tensor, v: Tensor, causal: bool = False) -> Tensor:
    """softmax(q kᵀ/√D) v for q, k, v [B, H, L, D], on every device. causal: positions attend to earlier ones only."""
    return F.scaled_dot_product_attention(q, k, v, is_causal=causal)


def masked(q: Tensor, k: Tensor, v: Tensor, seen: Tensor) -> Tensor:
    """The same where query i sees key j if seen[i, j], bool [L, L]."""
    return F.scaled_dot_product_attention(q, k, v, attn_mask=seen)


def plain(q: Tensor, k: Tensor, v: Tensor, causal: bool = False) -> Tensor:
    """The same as three explicit products."""
    scores = torch.matmul(q * q.shape[-1] ** -0.5, k.transpose(-1, -2))
    if causal:
        behind = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).triu(1)
        scores = scores.masked_fill(behind, float("-inf"))
    return torch.matmul(scores.softmax(-1).to(v.dtype), v)


def flash(q: Tensor, k: Tensor, v: Tensor, causal: bool = False) -> Tensor:
    """The same through the flash-attn package: half precision on a GPU only."""
    from flash_attn import flash_attn_func  # pyright: ignore[reportMissingImports]  (optional)

    return flash_attn_func(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), causal=causal).transpose(1, 2)


class KVCache:
    """Keys and values of the tokens that a causal network has processed, layer by layer."""

    def __init__(self) -> None:
        self.length = 0
        self._seen: dict[int, tuple[Tensor, Tensor]] = {}

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Causal attention of new queries [B, H, n, D] over all keys so far, the new ones included."""
        if layer in self._seen:
            k, v = (torch.cat(both, 2) for both in zip(self._seen[layer], (k, v), strict=True))
        self._seen[layer] = k, v
        new, all_ = q.shape[2], k.shape[2]
        ahead = torch.ones(new, all_, dtype=torch.bool, device=q.device).tril(all_ - new)
        return F.scaled_dot_product_attention(q, k, v, attn_mask=ahead)


class Rotary(nn.Module):
    """Rotary position embedding (Su et al. 2021), half-split: angles position · base^(−2i/D).

    `inv_freq` is a buffer because published checkpoints store it.
    """

    inv_freq: Tensor

    def __init__(self, head_dim: int, base: float = 10_000.0):
        super().__init__()
        # on the CPU even under `torch.device("meta")`, where PyTorch would import its compiler for this: two seconds
        even = torch.arange(0, head_dim, 2, dtype=torch.float32, device="cpu")
        self.register_buffer("inv_freq", base ** (-even / head_dim))

    def forward(self, length: int, heads: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """(cos, sin), each [L, heads · head_dim], for heads side by side; made in float32 whatever autocast does.

        sin is negated in the first half of a head, where the rotation subtracts.
        """
        angle = torch.outer(torch.arange(length, device=self.inv_freq.device).float(), self.inv_freq.float())
        cos, sin = angle.cos(), angle.sin()
        cos, sin = torch.cat((cos, cos), -1), torch.cat((-sin, sin), -1)
        return cos.repeat(1, heads).to(dtype), sin.repeat(1, heads).to(dtype)


def rotate(q: Tensor, cos: Tensor, sin: Tensor, head_dim: int) -> Tensor:
    """Rotate the pairs (i, i + head_dim/2) of every head of q [..., L, heads · head_dim] by its position's angles.

    Heads lie side by side, so that products run over long rows and one table of angles serves all blocks.
    """
    first, second = q.unflatten(-1, (-1, 2, head_dim // 2)).unbind(-2)
    return torch.addcmul(q * cos, torch.stack([second, first], -2).flatten(-3), sin)


def choose(name: str, device: torch.device, dtype: torch.dtype, length: int, head_dim: int) -> str:
    """The kernel for a configured `name`. sdpa and plain run on every device.

    auto: flash where it can run, plain for short bf16 blocks on a CPU, else sdpa. flash: flash where it can run, else
    sdpa, so that a model trained with it runs anywhere.
    """
    if name in ("auto", "flash") and device.type == "cuda" and flash_installed():
        half = dtype in (torch.float16, torch.bfloat16)
        fits = head_dim <= 256 and head_dim % 8 == 0
        if half and fits and torch.cuda.get_device_capability(device) >= (8, 0):
            return "flash"
    if name == "auto" and device.type == "cpu" and dtype == torch.bfloat16 and length <= PLAIN_UP_TO:
        return "plain"
    return "plain" if name == "plain" else "sdpa"


@functools.cache
def flash_installed() -> bool:
    """Whether the optional flash-attn package can be imported (it is not imported here)."""
    return importlib.util.find_spec("flash_attn") is not None


ATTENTION = {"sdpa": sdpa, "plain": plain, "flash": flash}
#: Accepted values of a network's `attention`.
NAMES = ("auto", *ATTENTION)
