"""Exponential moving average of the weights."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class EMA:
    """shadow ← decay·shadow + (1 − decay)·weights, with decay warmed up as min(decay, (1 + n)/(10 + n)).

    Elementwise: of weights sharded over processes, each process averages its own shards.
    """

    def __init__(self, net: nn.Module, decay: float):
        self.decay = decay
        self._live = dict(net.named_parameters())
        self.shadow: dict[str, Tensor] = {name: p.detach().clone() for name, p in self._live.items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Update the average after optimizer step number `step` (1, 2, …)."""
        decay = min(self.decay, (1 + step) / (10 + step))
        shadow, live = ([local_part(p.detach()) for p in named.values()] for named in (self.shadow, self._live))
        torch._foreach_lerp_(shadow, live, 1 - decay)  # pyright: ignore[reportPrivateImportUsage]


def local_part(tensor: Tensor) -> Tensor:
    """This process's shard of a sharded tensor; any other tensor as it is."""
    to_local = getattr(tensor, "to_local", None)
    return to_local() if to_local else tensor
