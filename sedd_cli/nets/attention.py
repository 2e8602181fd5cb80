"""Full bidirectional attention: one function a kernel, chosen by name."""

from __future__ import annotations

import functools
import importlib.util

import torch
import torch.nn.functional as F
from torch import Tensor

#: Up to this length explicit bf16 attention beats scaled_dot_product_attention on a CPU, three times over
#: with its backward pass at lengths 64 and 128 (Xeon with AMX, 2 threads). At 1024 it loses: 39 ms to 10 forward, 56 to
#: 51 backward (SEDD small, B=2), and a backward pass head by head in buffers that stay in the cache takes as long.
PLAIN_UP_TO = 256


def sdpa(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """softmax(q kᵀ/√D) v for q, k, v [B, H, L, D]; runs everywhere."""
    return F.scaled_dot_product_attention(q, k, v)


def plain(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """The same as three explicit products."""
    return torch.matmul(torch.matmul(q * q.shape[-1] ** -0.5, k.transpose(-1, -2)).softmax(-1).to(v.dtype), v)


def flash(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """The same through the flash-attn package: half precision on a GPU only."""
    from flash_attn import flash_attn_func

    return flash_attn_func(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)).transpose(1, 2)


def choose(name: str, device: torch.device, dtype: torch.dtype, length: int, head_dim: int) -> str:
    """The kernel that is used where `name` is asked for. sdpa and plain run everywhere.

    auto: flash where it can run, plain for short bf16 blocks on a CPU, else sdpa. flash: where it can run, else sdpa,
    so that a model trained with it can be used anywhere.
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
#: What may be asked for.
NAMES = ("auto", *ATTENTION)
