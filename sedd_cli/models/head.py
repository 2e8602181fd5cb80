"""The linear head, with outputs in float32 or better, whatever the precision of its factors."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from sedd_cli.models.precision import bf16_without_amx

#: Row counts of products in mixed precision are padded to multiples of this. oneDNN compiles and keeps a kernel for
#: every shape; the number of masked positions differs in every step, and a thousand kernels took gigabytes.
ROWS_IN = 64


#: Columns of products on a GPU are filled up to a multiple of this: 50,257 would miss the fast kernels.
COLUMNS_IN = 128


@dataclass(frozen=True)
class Readout:
    """z = hidden · weightᵀ + bias.

    mixed: factors of products may be rounded to bfloat16, sums are in float32. compiled: fused losses compile the
    operations between products.
    """

    weight: Tensor  # [S, D]
    bias: Tensor  # [S]
    mixed: bool = False
    compiled: bool = False

    @property
    def rows_in(self) -> int:
        """Products are fastest for multiples of this number of rows."""
        return ROWS_IN if self.mixed else 1

    @property
    def columns_in(self) -> int:
        """Columns of fused losses are filled up to a multiple of this."""
        return COLUMNS_IN if self.weight.is_cuda else 1

    def rounded(self, a: Tensor) -> Tensor:
        """`a` as a factor of `product`: bfloat16 for mixed products on a GPU, else float32 or better."""
        if self.mixed and a.is_cuda and a.dtype != torch.float64:
            return a.bfloat16()
        return a.to(torch.promote_types(a.dtype, torch.float32))

    def gradient_dtype(self, dtype: torch.dtype) -> torch.dtype:
        """The dtype of the factors of gradients, for outputs in `dtype`: bfloat16 where that is fastest, if mixed."""
        if self.mixed and dtype != torch.float64 and (self.weight.is_cuda or bf16_without_amx()):
            return torch.bfloat16
        return dtype

    def product(self, a: Tensor, b: Tensor, out: Tensor | None = None) -> Tensor:
        """a [M, K] · b [K, N] of two factors, not differentiable; `out` is filled and returned if given.

        Sums are in float32 or better. On a CPU the sums of bfloat16 factors, which only gradients have there, are
        rounded to bfloat16 in the end, as autocast rounds the gradients of all other matrices.
        """
        if a.dtype == torch.bfloat16 and not a.is_cuda:
            found = torch.mm(a, b)
            return found.float() if out is None else out.copy_(found)
        if a.dtype == torch.bfloat16:
            return torch.mm(a, b, out_dtype=torch.float32, **({} if out is None else {"out": out}))
        if not self.mixed or a.dtype == torch.float64 or a.is_cuda:
            return torch.mm(a, b, out=out)
        with _bf16_factors():
            return torch.mm(a, b, out=out)

    def __call__(self, hidden: Tensor) -> Tensor:
        """z [..., S] of hidden [..., D], differentiable, all columns at once."""
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
            return readout.product(readout.rounded(hidden), readout.rounded(weight).T).add_(bias)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        product, dtype = ctx.readout.product, ctx.readout.gradient_dtype(grad.dtype)
        hidden, weight, z_grad = (factor.to(dtype) for factor in (*ctx.saved_tensors, grad))
        return product(z_grad, weight), product(z_grad.T, hidden), grad.sum(0), None
