"""A linear head and its loss in one pass over tiles of the vocabulary.

Without this, z [R, S] is held, and as much again for log-scores, their exponentials and the gradient. Here a tile z[:,
columns] is formed, turned into its share of the loss and into its gradient, and multiplied into the gradients of hidden
states, weight and bias, before the next tile takes its place.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from sedd_cli.core.fast.base import TileLoss
from sedd_cli.core.fast.tiles import LinearHead, Tiles, counted_head


def weighted_loss(
    readout: LinearHead, loss: TileLoss, hidden: Tensor, weight: Tensor, budget: int | None = None
) -> tuple[Tensor, Tensor]:
    """(Σ weight·loss, a differentiable scalar; the loss [R] of every row, without gradient).

    hidden [R, D]; weight [R], fixed: gradients of hidden states, head and `loss.parameters` are formed here, at once,
    and only scaled in the backward pass. budget: bytes of a tile (default BUDGET); ValueError if a row of the
    vocabulary does not fit. No row at all gives 0, and gradients of 0.
    """
    rows, (hidden, loss) = len(hidden), _filled_up(readout, hidden, loss)
    weight = F.pad(weight, (0, len(hidden) - rows))
    tiles = Tiles.plan(readout, loss, hidden, budget)
    parameters = hidden.new_empty(0) if loss.parameters is None else loss.parameters
    total, found = _Fused.apply(hidden, readout.weight, readout.bias, parameters, readout, loss, weight, tiles)
    return total, found[:rows]


@torch.no_grad()
def losses(readout: LinearHead, loss: TileLoss, hidden: Tensor, budget: int | None = None) -> Tensor:
    """The loss [R] of every row, nothing else."""
    given, (hidden, loss) = len(hidden), _filled_up(readout, hidden, loss)
    tiles = Tiles.plan(readout, loss, hidden, budget)
    found = hidden.new_zeros(len(hidden), dtype=tiles.dtype)
    for rows, _, (part, *_) in tiles.of(readout, loss, hidden, counted_head(readout, loss.columns, tiles.dtype)):
        found[rows] += part
    return (found * loss.row_weight().to(found.dtype))[:given]


def _filled_up(readout: LinearHead, hidden: Tensor, loss: TileLoss) -> tuple[Tensor, TileLoss]:
    """Pad with rows of zeros to a multiple of `rows_in`. They copy the targets of the last row, and have weight 0."""
    rows = len(hidden)
    extra = -rows % readout.rows_in
    if not extra:
        return hidden, loss
    return F.pad(hidden, (0, 0, 0, extra)), loss[torch.arange(rows + extra, device=hidden.device).clamp(max=rows - 1)]


class _Fused(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor,
        parameters: Tensor,
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
            d_parameters = bias.new_zeros(tiles.columns, dtype=dtype)
            row_weight = loss.row_weight()
            scale, row_weight = (scale * row_weight).to(dtype), row_weight.to(dtype)
            # multiply the hidden state of a row by its scale instead of its gradient, which is longer
            factor = readout.gradient_dtype(dtype)
            scaled = (hidden.to(dtype) * scale[:, None]).to(factor)
            head = counted_head(readout, loss.columns, dtype)
            weight_factor = head[0].to(factor)
            for rows, columns, (part, gradient, *of_parameters) in tiles.of(readout, loss, hidden, head):
                found[rows] += part
                d_hidden[rows] += readout.product(gradient, weight_factor[columns])
                if rows.start == 0:
                    readout.product(gradient.T, scaled[rows], out=d_weight[columns])
                else:
                    d_weight[columns] += readout.product(gradient.T, scaled[rows])
                d_bias[columns] += _row_sum(readout, scale[rows], gradient)
                for of_row in of_parameters:
                    d_parameters[columns] += _row_sum(readout, scale[rows], of_row)
            given = hidden, weight, bias, parameters
            gradients = d_hidden.mul_(scale[:, None]), d_weight, d_bias, d_parameters
            ctx.save_for_backward(*(gradient[: len(x)] for gradient, x in zip(gradients, given, strict=True)))
            ctx.kinds = [x.dtype for x in given]
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
