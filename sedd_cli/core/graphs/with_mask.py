"""Graphs over N tokens and MASK."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from sedd_cli.core.graphs.base import Graph


@dataclass(frozen=True)
class WithMask(Graph):
    """A graph whose states are the tokens, and MASK behind them, which is state N and is never left."""

    @property
    def states(self) -> int:
        return self.vocab_size + 1

    @property
    def mask(self) -> int:
        return self.vocab_size

    def _is_mask(self, x: Tensor) -> Tensor:
        """1 at MASK and 0 at every token, [S] float64 on the device of x."""
        return F.one_hot(torch.tensor(self.mask, device=x.device), self.states).double()
