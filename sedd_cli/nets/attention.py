"""Full bidirectional attention: one function a kernel, chosen by name."""

from __future__ import annotations

import importlib.util

import torch
import torch.nn.functional as F
from torch import Tensor


def sdpa(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """softmax(q kᵀ/√D) v for q, k, v [B, H, L, D]; runs everywhere."""
    return F.scaled_dot_product_attention(q, k, v)


def flash(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """The same through the flash-attn package: half precision on a GPU only."""
    from flash_attn import flash_attn_func

    return flash_attn_func(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)).transpose(1, 2)


def auto(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """flash where it is installed and applies, else sdpa."""
    usable = q.is_cuda and q.dtype in (torch.float16, torch.bfloat16) and flash_installed()
    return flash(q, k, v) if usable else sdpa(q, k, v)


def flash_installed() -> bool:
    """Whether the optional flash-attn package can be imported (it is not imported here)."""
    return importlib.util.find_spec("flash_attn") is not None


ATTENTION = {"auto": auto, "sdpa": sdpa, "flash": flash}
