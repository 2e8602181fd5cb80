"""GenMD4's loss at a MASK as a fused loss, with the gradient of the graph's exponents."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from sedd_cli.core.fast.base import TileLoss


@dataclass(frozen=True)
class ExponentTiles(TileLoss):
    """w_{x0}·(−log μ_{x0} − 1) + Σ_y w_y·μ_y of some rows, for μ = softmax(z) over the tokens (`losses.genmd4`).

    x0 int64 [R]; w [N], the exponents, which are trained if they require a gradient.
    """

    whole_rows: ClassVar[bool] = True
    x0: Tensor
    w: Tensor

    @property
    def columns(self) -> int:
        return len(self.w)

    @property
    def parameters(self) -> Tensor | None:
        return self.w if self.w.requires_grad else None

    def __getitem__(self, rows: slice | Tensor) -> ExponentTiles:
        return ExponentTiles(self.x0[rows], self.w)

    def tile(self, z: Tensor, start: int | Tensor, lse: Tensor | None, dtype: torch.dtype) -> tuple[Tensor, ...]:
        """w_{x0}·nats + Δ with nats = −log μ_{x0} and Δ = Σ_y (w_y − w_{x0})·μ_y, which is 0 where all w are equal.

        Gradients: μ_y·(w_y − Δ) − w_{x0}·[y = x0] of z_y, and μ_y + (nats − 1)·[y = x0] of w_y.
        """
        x0, w = self.x0[:, None], self.w.detach().to(z.dtype)
        w_x0, w = w[x0], F.pad(w, (0, z.shape[1] - len(w)))
        log_mu = z.sub_(z.logsumexp(-1, keepdim=True))
        nats = -log_mu.gather(1, x0)
        mu = log_mu.exp_()
        delta = (mu @ (w - w[0]))[:, None] - (w_x0 - w[0])
        part = (w_x0 * nats + delta)[:, 0]
        gradient = (mu * w).addcmul_(mu, delta, value=-1).scatter_add_(1, x0, -w_x0).to(dtype)
        if self.parameters is None:
            return part, gradient
        return part, gradient, mu.scatter_add_(1, x0, nats - 1)

    def row_weight(self) -> Tensor:
        return torch.ones_like(self.x0, dtype=torch.float64)

    def neutral_output(self) -> float:
        return -torch.inf
