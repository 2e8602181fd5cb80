"""Head and score entropy in one pass over tiles of the vocabulary.

The plain form makes z [R, S] (and as much again for its log-score, its exponential and its gradient). Here a tile
z[:, columns] is formed, turned into its share of the loss, overwritten by its own gradient, and multiplied into the
gradients of hidden states, weight and bias, before the next tile takes its place. That is possible because the loss's
gradient with respect to z is elementwise on both graphs (theorem 3.6): no softmax normaliser is needed. See
`Kernels.loss_tile`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from sedd_cli.core.fast.base import Kernels, Targets

#: Bytes of a tile.
BUDGET = {"cpu": 8 * 2**20, "cuda": 256 * 2**20}
#: Narrower tiles than this waste the matrix units; rows are split first.
NARROWEST = 512
#: All tiles but the last are a multiple of this wide, so that an odd vocabulary (50,257) does not slow the products.
WIDTH_IN = 128


class LinearHead(Protocol):
    """A linear head: z = hidden · weightᵀ + bias."""

    @property
    def weight(self) -> Tensor:
        """[S, D]."""
        ...

    @property
    def bias(self) -> Tensor:
        """[S]."""
        ...

    @property
    def rows_in(self) -> int:
        """Row counts that are multiples of this are served best."""
        ...

    def product(self, a: Tensor, b: Tensor, out: Tensor | None = None) -> Tensor:
        """a [M, K] · b [K, N], summed in float32 or better, in the precision of the network."""
        ...


def weighted_loss(
    readout: LinearHead, kernels: Kernels, hidden: Tensor, targets: Targets, weight: Tensor, budget: int | None = None
) -> tuple[Tensor, Tensor]:
    """(Σ weight·loss, a differentiable scalar; the loss [R] of every row, without gradient).

    hidden [R, D]; weight [R], fixed: gradients of hidden states, head weight and bias are formed here, at once, and
    only scaled in the backward pass. Loss is the score entropy (theorem 3.6). budget: bytes of a tile (default BUDGET);
    ValueError if a row of the vocabulary does not fit. No row at all gives 0, and gradients of 0.
    """
    rows, (hidden, targets) = len(hidden), _filled_up(readout, hidden, targets)
    weight = F.pad(weight, (0, len(hidden) - rows))
    tiles = Tiles.plan(len(hidden), kernels.graph.vocab_size, hidden, budget)
    total, loss = _Fused.apply(hidden, readout.weight, readout.bias, readout, kernels, targets, weight, tiles)
    return total, loss[:rows]


@torch.no_grad()
def losses(
    readout: LinearHead, kernels: Kernels, hidden: Tensor, targets: Targets, budget: int | None = None
) -> Tensor:
    """The loss [R] of every row, nothing else."""
    given, (hidden, targets) = len(hidden), _filled_up(readout, hidden, targets)
    tiles = Tiles.plan(len(hidden), kernels.graph.vocab_size, hidden, budget)
    loss = hidden.new_zeros(len(hidden), dtype=tiles.dtype)
    for rows, columns, z in tiles.of(readout, hidden):
        loss[rows] += kernels.loss_tile(z, columns.start, targets[rows])
    return (loss * kernels.loss_factor(targets).to(loss.dtype))[:given]


def _filled_up(readout: LinearHead, hidden: Tensor, targets: Targets) -> tuple[Tensor, Targets]:
    """Rows of zeros added up to a multiple of `rows_in`: they stand where the last row stands, and count nothing."""
    rows = len(hidden)
    extra = -rows % readout.rows_in
    return F.pad(hidden, (0, 0, 0, extra)), targets[
        torch.arange(rows + extra, device=hidden.device).clamp(max=rows - 1)
    ]


@dataclass(frozen=True)
class Tiles:
    """How rows × columns are cut; one buffer serves every tile."""

    rows: int
    columns: int
    height: int
    width: int
    dtype: torch.dtype

    @classmethod
    def plan(cls, rows: int, columns: int, like: Tensor, budget: int | None) -> Tiles:
        dtype = torch.promote_types(like.dtype, torch.float32)
        budget = BUDGET.get(like.device.type, BUDGET["cpu"]) if budget is None else budget
        cells = budget // dtype.itemsize
        if cells < columns:
            raise ValueError(
                f"a budget of {budget:,} bytes does not hold one row of {columns:,} scores, "
                f"{columns * dtype.itemsize:,} bytes"
            )
        width = min(columns, max(NARROWEST, cells // max(rows, 1) // WIDTH_IN * WIDTH_IN))
        return cls(rows, columns, min(max(rows, 1), cells // width), width, dtype)

    def of(self, readout: LinearHead, hidden: Tensor) -> Iterator[tuple[slice, slice, Tensor]]:
        """(rows, columns, z [rows, columns]) for every tile; each is valid until the next."""
        buffer = torch.empty(self.height * self.width, dtype=self.dtype, device=hidden.device)
        hidden = hidden.to(self.dtype)
        for top in range(0, self.rows, self.height):
            rows = slice(top, min(top + self.height, self.rows))
            for left in range(0, self.columns, self.width):
                columns = slice(left, min(left + self.width, self.columns))
                shape = rows.stop - rows.start, columns.stop - columns.start
                z = buffer[: shape[0] * shape[1]].view(shape)
                readout.product(hidden[rows], readout.weight[columns].to(self.dtype).T, out=z)
                yield rows, columns, z.add_(readout.bias[columns])


class _Fused(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor,
        readout: LinearHead,
        kernels: Kernels[Any],
        targets: Targets,
        scale: Tensor,
        tiles: Tiles,
    ) -> tuple[Tensor, Tensor]:
        with torch.autocast(hidden.device.type, enabled=False):
            dtype = tiles.dtype
            loss = hidden.new_zeros(len(hidden), dtype=dtype)
            d_hidden = torch.zeros_like(hidden, dtype=dtype)
            d_weight, d_bias = torch.empty_like(weight, dtype=dtype), torch.zeros_like(bias, dtype=dtype)
            d_weight[kernels.graph.vocab_size if len(hidden) else 0 :] = 0  # the rest is written before it is added to
            factor = kernels.loss_factor(targets)
            scale, factor = (scale * factor).to(dtype), factor.to(dtype)
            # the factor of a row may as well be carried by its hidden state, which is shorter than its scores
            scaled = hidden.to(dtype) * scale[:, None]
            for rows, columns, z in tiles.of(readout, hidden):
                loss[rows] += kernels.loss_tile(z, columns.start, targets[rows])
                d_hidden[rows] += readout.product(z, weight[columns].to(dtype))
                if rows.start == 0:
                    readout.product(z.T, scaled[rows], out=d_weight[columns])
                else:
                    d_weight[columns] += readout.product(z.T, scaled[rows])
                d_bias[columns] += scale[rows] @ z
            ctx.save_for_backward(d_hidden.mul_(scale[:, None]), d_weight, d_bias)
            ctx.kinds = hidden.dtype, weight.dtype, bias.dtype
            total, loss = (scale * loss).sum(), factor * loss
            ctx.mark_non_differentiable(loss)
            return total, loss

    @staticmethod
    def backward(ctx: Any, grad: Tensor, _: Any) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        found = (saved.mul_(grad) for saved in ctx.saved_tensors)
        return (*(g.to(kind) for g, kind in zip(found, ctx.kinds, strict=True)), None, None, None, None, None)
