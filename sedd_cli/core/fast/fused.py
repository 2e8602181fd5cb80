"""A linear head and its loss in one pass over tiles of the vocabulary.

Without this, z [R, S] is held, and as much again for log-scores, their exponentials and the gradient. Here a tile z[:,
columns] is formed, turned into its share of the loss and into its gradient, and multiplied into the gradients of hidden
states, weight and bias, before the next tile takes its place. A loss whose gradient with respect to z is elementwise
(score entropy, theorem 3.6) needs one pass. One that needs the normaliser of the softmax (cross-entropy) needs a pass
before it for the log-sum-exp, unless a tile holds whole rows. One that needs more than that (D3PM on the uniform graph)
gets tiles of whole rows.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from sedd_cli.core.fast.base import TileLoss
from sedd_cli.core.fast.programs import many_programs
from sedd_cli.errors import out_of_memory

#: Bytes of a tile.
BUDGET = {"cpu": 8 * 2**20, "cuda": 2**30}
#: Bytes of z in a tile of whole rows, for losses that need them. D3PM's on the uniform graph takes some 16 times as
#: much beside it, about eight tensors in float64. Narrower tiles would read the head's weights more often.
WHOLE_BUDGET = {"cpu": 32 * 2**20, "cuda": 2**28}
#: Narrower tiles than this waste the matrix units; rows are split first.
NARROWEST = 512
#: A loss with a softmax gets tiles of whole rows, and so one pass less, if a tile holds this many.
WHOLE_ROWS = 256
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
        """Products are fastest for multiples of this number of rows."""
        ...

    @property
    def columns_in(self) -> int:
        """Columns are padded to a multiple of this number."""
        ...

    @property
    def compiled(self) -> bool:
        """Whether the operations on a tile are compiled into one kernel."""
        ...

    def rounded(self, a: Tensor) -> Tensor:
        """`a` as `product` takes it: rounded, where products round their factors."""
        ...

    def gradient_dtype(self, dtype: torch.dtype) -> torch.dtype:
        """The dtype of factors of gradients, for outputs in `dtype`."""
        ...

    def product(self, a: Tensor, b: Tensor, out: Tensor | None = None) -> Tensor:
        """a [M, K] · b [K, N] of two factors, summed in float32 or better."""
        ...


def weighted_loss(
    readout: LinearHead, loss: TileLoss, hidden: Tensor, weight: Tensor, budget: int | None = None
) -> tuple[Tensor, Tensor]:
    """(Σ weight·loss, a differentiable scalar; the loss [R] of every row, without gradient).

    hidden [R, D]; weight [R], fixed: gradients of hidden states, head weight and bias are formed here, at once, and
    only scaled in the backward pass. budget: bytes of a tile (default BUDGET); ValueError if a row of the vocabulary
    does not fit. No row at all gives 0, and gradients of 0.
    """
    rows, (hidden, loss) = len(hidden), _filled_up(readout, hidden, loss)
    weight = F.pad(weight, (0, len(hidden) - rows))
    tiles = Tiles.plan(readout, loss, hidden, budget)
    total, found = _Fused.apply(hidden, readout.weight, readout.bias, readout, loss, weight, tiles)
    return total, found[:rows]


@torch.no_grad()
def losses(readout: LinearHead, loss: TileLoss, hidden: Tensor, budget: int | None = None) -> Tensor:
    """The loss [R] of every row, nothing else."""
    given, (hidden, loss) = len(hidden), _filled_up(readout, hidden, loss)
    tiles = Tiles.plan(readout, loss, hidden, budget)
    found = hidden.new_zeros(len(hidden), dtype=tiles.dtype)
    for rows, _, part, _ in tiles.of(readout, loss, hidden, _head(readout, loss.columns, tiles.dtype)):
        found[rows] += part
    return (found * loss.row_weight().to(found.dtype))[:given]


def _filled_up(readout: LinearHead, hidden: Tensor, loss: TileLoss) -> tuple[Tensor, TileLoss]:
    """Pad with rows of zeros to a multiple of `rows_in`. They copy the targets of the last row, and have weight 0."""
    rows = len(hidden)
    extra = -rows % readout.rows_in
    if not extra:
        return hidden, loss
    return F.pad(hidden, (0, 0, 0, extra)), loss[torch.arange(rows + extra, device=hidden.device).clamp(max=rows - 1)]


def _head(readout: LinearHead, columns: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Weight and bias of the first `columns` outputs, filled up with zeros to a multiple of `columns_in`."""
    weight, bias = readout.rounded(readout.weight[:columns]), readout.bias[:columns].to(dtype)
    extra = -columns % readout.columns_in
    return (F.pad(weight, (0, 0, 0, extra)), F.pad(bias, (0, extra))) if extra else (weight, bias)


@dataclass(frozen=True)
class Tiles:
    """How rows × columns are cut. Columns include the padding; the first `loss.columns` enter the loss."""

    rows: int
    columns: int
    height: int
    width: int
    dtype: torch.dtype

    @classmethod
    def plan(cls, readout: LinearHead, loss: TileLoss, hidden: Tensor, budget: int | None) -> Tiles:
        """Tiles of at most `budget` bytes."""
        rows, columns = len(hidden), loss.columns + -loss.columns % readout.columns_in
        dtype = torch.promote_types(hidden.dtype, torch.float32)
        if budget is None:
            budgets = WHOLE_BUDGET if loss.whole_rows else BUDGET
            budget = budgets.get(hidden.device.type, budgets["cpu"])
        cells = budget // dtype.itemsize
        if cells < columns:
            raise ValueError(
                f"a budget of {budget:,} bytes does not hold one row of {columns:,} scores, "
                f"{columns * dtype.itemsize:,} bytes"
            )
        if loss.whole_rows or (loss.softmax and cells // columns >= min(rows, WHOLE_ROWS)):
            width = columns
        else:
            width = min(columns, max(NARROWEST, cells // max(rows, 1) // WIDTH_IN * WIDTH_IN))
        height = min(max(rows, 1), cells // width)
        if readout.rows_in <= height < rows:
            height -= height % readout.rows_in
        return cls(rows, columns, height, width, dtype)

    def of(
        self, readout: LinearHead, loss: TileLoss, hidden: Tensor, head: tuple[Tensor, Tensor]
    ) -> Iterator[tuple[slice, slice, Tensor, Tensor]]:
        """(rows, columns, the tile's part of the loss [rows], its gradient [rows, columns]) for every tile.

        A gradient is valid until the next tile, in `readout.gradient_dtype`. Both come without `loss.row_weight`.
        head: what `_head` returns.
        """
        weight, bias = head
        hidden = readout.rounded(hidden)
        tile = compiled_or_plain if readout.compiled else _tile
        # one buffer is used for all tiles
        buffer = None if readout.compiled else weight.new_empty(self.height * self.width, dtype=self.dtype)
        for top in range(0, self.rows, self.height):
            rows = slice(top, min(top + self.height, self.rows))
            here, lse = loss[rows], None
            strips = [slice(at, min(at + self.width, self.columns)) for at in range(0, self.columns, self.width)]
            if loss.softmax and len(strips) > 1:
                lse = hidden.new_full((rows.stop - rows.start,), -torch.inf, dtype=self.dtype)
                for columns in strips:
                    z = _outputs(readout, hidden[rows], weight[columns], bias[columns], buffer)
                    lse = torch.logaddexp(lse, _counted(z, here, columns).logsumexp(-1))
            for columns in strips:
                start = columns.start
                if readout.compiled:  # as a number, every start would be compiled anew
                    start = torch.full((), start, device=hidden.device)
                given = hidden[rows], weight[columns], bias[columns], start, lse, buffer
                yield rows, columns, *tile(readout, here, *given)


def _outputs(readout: LinearHead, hidden: Tensor, weight: Tensor, bias: Tensor, buffer: Tensor | None) -> Tensor:
    """z [R, C] of a tile, in the buffer if there is one."""
    shape = len(hidden), len(weight)
    out = None if buffer is None else buffer[: shape[0] * shape[1]].view(shape)
    return readout.product(hidden, weight.T, out=out).add_(bias)


def _counted(z: Tensor, loss: TileLoss, columns: slice) -> Tensor:
    """z without the columns that pad the vocabulary."""
    return z[:, : max(loss.columns - columns.start, 0)] if columns.stop > loss.columns else z


def _tile(
    readout: LinearHead, loss: TileLoss, hidden: Tensor, weight: Tensor, bias: Tensor, start: int | Tensor,
    lse: Tensor | None, buffer: Tensor | None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """A tile's part of the loss [R] and its gradient [R, C], as a factor of gradients."""
    z = _outputs(readout, hidden, weight, bias, buffer)
    if readout.columns_in > 1:
        # start may be a tensor, so that a compiled tile serves all columns
        counted = torch.arange(z.shape[1], device=z.device) + start < loss.columns
        neutral = loss.neutral_output()  # a number stays one: as a tensor, a GPU would have to be waited for
        z = torch.where(counted, z, neutral.to(z.dtype) if isinstance(neutral, Tensor) else neutral)
    if loss.softmax and lse is None:
        lse = z.logsumexp(-1)
    return loss.tile(z, start, lse, readout.gradient_dtype(z.dtype))


#: Errors of the compiler, by kind of loss: such losses run uncompiled from then on.
FAILURES: dict[type[TileLoss], str] = {}


def compiled_or_plain(readout: LinearHead, loss: TileLoss, *given: Any) -> tuple[Tensor, Tensor]:
    """`_tile`, compiled; uncompiled after a first failure of the compiler, with one warning for each kind of loss."""
    kind = type(loss)
    if kind not in FAILURES:
        try:
            return _compiled_tile(kind)(readout, loss, *given)
        except Exception as error:  # a compiler can fail in any way
            if out_of_memory(error):
                raise
            plain = _tile(readout, loss, *given)  # where this fails too, it is not the compiler's fault
            FAILURES[kind] = " ".join(str(error).split())[:160]
            warnings.warn(
                f"torch.compile does not work here for {kind.__name__}, the loss runs uncompiled "
                f"({type(error).__name__}: {FAILURES[kind]})",
                stacklevel=2,
            )
            return plain
    return _tile(readout, loss, *given)


@functools.cache
def _compiled_tile(kind: type[TileLoss]) -> Callable[..., tuple[Tensor, Tensor]]:
    """`_tile` compiled for a kind of loss, with a code object of its own: torch limits the programs of each."""

    def tile(*given: Any) -> tuple[Tensor, Tensor]:
        return _tile(*given)

    tile.__code__ = tile.__code__.replace(co_name=f"tile_{kind.__name__}")
    return torch.compile(tile, dynamic=True, **many_programs())


class _Fused(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor,
        readout: LinearHead,
        loss: TileLoss,
        scale: Tensor,
        tiles: Tiles,
    ) -> tuple[Tensor, Tensor]:
        with torch.autocast(hidden.device.type, enabled=False):
            dtype = tiles.dtype
            found = hidden.new_zeros(len(hidden), dtype=dtype)
            d_hidden = torch.zeros_like(hidden, dtype=dtype)
            d_weight = weight.new_empty(max(len(weight), tiles.columns), weight.shape[1], dtype=dtype)
            d_bias = bias.new_zeros(len(d_weight), dtype=dtype)
            d_weight[tiles.columns if len(hidden) else 0 :] = 0  # the rest is written before it is added to
            row_weight = loss.row_weight()
            scale, row_weight = (scale * row_weight).to(dtype), row_weight.to(dtype)
            # multiply the hidden state of a row by its scale instead of its gradient, which is longer
            factor = readout.gradient_dtype(dtype)
            scaled = (hidden.to(dtype) * scale[:, None]).to(factor)
            head = _head(readout, loss.columns, dtype)
            weight_factor = head[0].to(factor)
            for rows, columns, part, gradient in tiles.of(readout, loss, hidden, head):
                found[rows] += part
                d_hidden[rows] += readout.product(gradient, weight_factor[columns])
                if rows.start == 0:
                    readout.product(gradient.T, scaled[rows], out=d_weight[columns])
                else:
                    d_weight[columns] += readout.product(gradient.T, scaled[rows])
                d_bias[columns] += _row_sum(readout, scale[rows], gradient)
            ctx.save_for_backward(d_hidden.mul_(scale[:, None]), d_weight[: len(weight)], d_bias[: len(bias)])
            ctx.kinds = hidden.dtype, weight.dtype, bias.dtype
            total, found = (scale * found).sum(), row_weight * found
            ctx.mark_non_differentiable(found)
            return total, found

    @staticmethod
    def backward(ctx: Any, grad: Tensor, _: Any) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        found = (saved.mul_(grad) for saved in ctx.saved_tensors)
        return (*(g.to(kind) for g, kind in zip(found, ctx.kinds, strict=True)), None, None, None, None)


def _row_sum(readout: LinearHead, scale: Tensor, gradient: Tensor) -> Tensor:
    """Σ_rows scale·gradient [C], to the precision of the scale [R] where the gradient [R, C] is rounded."""
    if gradient.dtype == scale.dtype or not gradient.is_cuda:
        return scale @ gradient.to(scale.dtype)
    # scale = high + low, both rounded; products are fastest with eight rows
    high = scale.to(gradient.dtype)
    low = (scale - high.to(scale.dtype)).to(gradient.dtype)
    both = torch.stack([high, low, *[torch.zeros_like(high)] * 6])
    return readout.product(both, gradient)[:2].sum(0)
