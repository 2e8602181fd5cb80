"""Full bidirectional attention: one function a kernel, chosen by name."""

from __future__ import annotations

import functools
import importlib.util

import torch
import torch.nn.functional as F
from torch import Tensor

#: Up to this length explicit bf16 attention beats scaled_dot_product_attention on a CPU, three times over
#: with its backward pass at lengths 64 and 128 (Xeon with AMX, 2 threads); at 1024 it loses.
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


def auto(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """The fastest that applies."""
    return ATTENTION[choose("auto", q.device, q.dtype, q.shape[-2])](q, k, v)


def choose(name: str, device: torch.device, dtype: torch.dtype, length: int) -> str:
    """The kernel that `name` stands for. auto: flash where it is installed and the GPU can, plain for short bf16
    blocks on a CPU, else sdpa."""
    if name != "auto":
        return name
    if device.type == "cuda" and dtype in (torch.float16, torch.bfloat16) and flash_installed():
        return "flash" if torch.cuda.get_device_capability(device) >= (8, 0) else "sdpa"
    if device.type == "cpu" and dtype == torch.bfloat16 and length <= PLAIN_UP_TO:
        return "plain"
    return "sdpa"


@functools.cache
def flash_installed() -> bool:
    """Whether the optional flash-attn package can be imported (it is not imported here)."""
    return importlib.util.find_spec("flash_attn") is not None


ATTENTION = {"auto": auto, "sdpa": sdpa, "plain": plain, "flash": flash}
