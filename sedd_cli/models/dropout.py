"""Dropout whose mask costs less to draw than the layer it follows."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

#: Values of the random number of an element.
LEVELS = 2**16


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
