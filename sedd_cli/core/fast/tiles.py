"""The tiles of a linear head's outputs: how rows and columns are cut, and how a tile is made, compiled where asked.

A loss whose gradient with respect to z is elementwise (score entropy, theorem 3.6) needs one pass. One that needs the
normaliser of the softmax (cross-entropy) needs a pass before it for the log-sum-exp, unless a tile holds whole rows.
One that needs more than that (D3PM on the uniform graph) gets tiles of whole rows.
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
#: Bytes of z in a tile of whole rows, for losses that need them. On a CPU a tile of BUDGET is taken where it holds
#: enough rows: lower ones would read the head's weights more often. D3PM's loss on the uniform graph takes some 16
#: times as much beside it, about eight tensors in float64.
WHOLE_BUDGET = {"cpu": 32 * 2**20, "cuda": 2**28}
#: Narrower tiles than this waste the matrix units; rows are split first.
NARROWEST = 512
#: Few rows of a tile are less than so many. A loss with a softmax gets tiles of whole rows, and so one pass less, where
#: a tile holds them.
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
            usual, whole = (budgets.get(hidden.device.type, budgets["cpu"]) for budgets in (BUDGET, WHOLE_BUDGET))
            few = usual // dtype.itemsize < min(rows, WHOLE_ROWS) * columns
            budget = usual if not loss.whole_rows else whole if few else min(usual, whole)
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
    ) -> Iterator[tuple[slice, slice, tuple[Tensor, ...]]]:
        """(rows, columns, `loss.tile` of them) for every tile.

        A gradient is valid until the next tile, in `readout.gradient_dtype`. head: what `counted_head` returns.
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
                yield rows, columns, tile(readout, here, *given)


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
) -> tuple[Tensor, ...]:  # fmt: skip
    """`TileLoss.tile` of the head's outputs, gradients as factors of gradients."""
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


def compiled_or_plain(readout: LinearHead, loss: TileLoss, *given: Any) -> tuple[Tensor, ...]:
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
def _compiled_tile(kind: type[TileLoss]) -> Callable[..., tuple[Tensor, ...]]:
    """`_tile` compiled for a kind of loss, with a code object of its own: torch limits the programs of each."""

    def tile(*given: Any) -> tuple[Tensor, ...]:
        return _tile(*given)

    tile.__code__ = tile.__code__.replace(co_name=f"tile_{kind.__name__}")
    return torch.compile(tile, dynamic=True, **many_programs())


def counted_head(readout: LinearHead, columns: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Weight and bias of the first `columns` outputs, filled up with zeros to a multiple of `columns_in`."""
    weight, bias = readout.rounded(readout.weight[:columns]), readout.bias[:columns].to(dtype)
    extra = -columns % readout.columns_in
    return (F.pad(weight, (0, 0, 0, extra)), F.pad(bias, (0, extra))) if extra else (weight, bias)
