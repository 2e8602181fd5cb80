"""What stands around the attention and the MLP of a block: a modulation by the noise, or a plain residual."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from sedd_cli.models.layers import modulate


class AdaLN(NamedTuple):
    """adaLN-zero (Peebles and Xie 2023): shift, scale and gate, [B, 1, D] each, or [R, D] for rows."""

    shift: Tensor
    scale: Tensor
    gate: Tensor

    def enter(self, h: Tensor) -> Tensor:
        """The input of the attention or the MLP, from normalised h [B, L, D]."""
        return modulate(h, self.shift, self.scale)

    def leave(self, h: Tensor, out: Tensor) -> Tensor:
        """The block's sum of h [B, L, D] and the output."""
        return torch.addcmul(h, self.gate, out)

    def of(self, sequence: Tensor) -> AdaLN:
        """For rows [R, D] of the sequences [R]."""
        return AdaLN(*(part.squeeze(1).index_select(0, sequence) for part in self))


class Residual(NamedTuple):
    """No modulation."""

    def enter(self, h: Tensor) -> Tensor:
        return h

    def leave(self, h: Tensor, out: Tensor) -> Tensor:
        return h + out

    def of(self, sequence: Tensor) -> Residual:
        return self


Modulation = AdaLN | Residual
PLAIN = Residual()
