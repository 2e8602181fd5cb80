"""The linear head, with outputs in float32 or better, whatever the precision of its factors."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

#: Row counts of products in mixed precision are padded to multiples of this. oneDNN compiles and keeps a kernel for
#: every shape; the number of masked positions differs in every step, and a thousand kernels took gigabytes.
ROWS_IN = 64


@dataclass(frozen=True)
class Readout:
    """z = hidden · weightᵀ + bias. mixed: factors of products may be rounded to bfloat16, sums are in float32."""

    weight: Tensor  # [S, D]
    bias: Tensor  # [S]
    mixed: bool = False

    @property
    def rows_in(self) -> int:
        """Products are fastest for multiples of this number of rows."""
        return ROWS_IN if self.mixed else 1

    def product(self, a: Tensor, b: Tensor, out: Tensor | None = None) -> Tensor:
        """a [M, K] · b [K, N], not differentiable; `out` is filled and returned if given."""
        if not self.mixed or a.dtype == torch.float64:
            return torch.mm(a, b, out=out)
        if a.is_cuda:
            a, b = a.bfloat16(), b.bfloat16()
            return torch.mm(a, b, out_dtype=torch.float32, **({} if out is None else {"out": out}))
        with _bf16_factors():
            return torch.mm(a, b, out=out)

    def __call__(self, hidden: Tensor) -> Tensor:
        """z [..., S] of hidden [..., D], differentiable: the plain form."""
        rows = hidden.reshape(-1, hidden.shape[-1])
        filled_up = F.pad(rows, (0, 0, 0, -len(rows) % self.rows_in))
        z = _Linear.apply(filled_up, self.weight, self.bias, self)[: len(rows)]
        return z.view(*hidden.shape[:-1], len(self.bias))


@contextmanager
def _bf16_factors() -> Iterator[None]:
    """Let float32 products round their factors, as oneDNN does with AMX; autocast would round the result too."""
    settings: Any = torch.backends.mkldnn
    before = settings.matmul.fp32_precision
    settings.matmul.fp32_precision = "bf16"
    try:
        yield
    finally:
        settings.matmul.fp32_precision = before


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor, readout: Readout) -> Tensor:
        ctx.save_for_backward(hidden, weight)
        ctx.readout = readout
        with torch.autocast(hidden.device.type, enabled=False):
            return readout.product(hidden, weight.T).add_(bias)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        hidden, weight = ctx.saved_tensors
        return ctx.readout.product(grad, weight), ctx.readout.product(grad.T, hidden), grad.sum(0), None
