"""Exponential moving average of the weights."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class EMA:
    """shadow ← decay·shadow + (1 − decay)·weights, with decay warmed up as min(decay, (1 + n)/(10 + n))."""

    def __init__(self, net: nn.Module, decay: float):
        self.decay = decay
        self._live = dict(net.named_parameters())
        self.shadow: dict[str, Tensor] = {name: p.detach().clone() for name, p in self._live.items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the weights after optimizer step number `step` (1, 2, …)."""
        decay = min(self.decay, (1 + step) / (10 + step))
        live = [p.detach() for p in self._live.values()]
        torch._foreach_lerp_(list(self.shadow.values()), live, 1 - decay)
