"""Exact categorical draws.

The Gumbel-max trick in float32 resolves probabilities only down to 2⁻²⁴, so rare tokens are never drawn. Here a draw
inverts the cumulative distribution in float64: an entry of mass q is drawn with probability q, up to 2⁻⁵² of the total.
"""

from __future__ import annotations

import torch
from torch import Tensor

#: Elements of a float64 block of cumulative sums; bounds memory to 64 MiB (256 on a GPU) whatever the vocabulary.
BLOCK = 2**23
GPU_BLOCK = 2**25


def inverse_cdf(weights: Tensor, u: Tensor) -> Tensor:
    """Index drawn with probability ∝ weights [R, S] (non-negative, any dtype) by uniforms u [R] float64.

    Returns int64 [R]. Entries of weight 0 are never drawn. Raises ValueError on a row without mass.
    """
    rows = _rows(weights)
    parts = [_inverse_cdf(weights[i : i + rows], u[i : i + rows]) for i in range(0, len(weights), rows)]
    return torch.cat(parts) if parts else u.new_zeros(0, dtype=torch.int64)


def _rows(weights: Tensor) -> int:
    """Rows of a block."""
    return max(1, (GPU_BLOCK if weights.is_cuda else BLOCK) // weights.shape[-1])


def _inverse_cdf(weights: Tensor, u: Tensor) -> Tensor:
    cdf = weights.cumsum(-1, dtype=torch.float64)
    total = cdf[:, -1:]
    if not bool(((total > 0) & (total < torch.inf)).all()):
        raise ValueError("cannot draw: a row of weights is zero, infinite or not a number")
    # right=True skips zero-weight entries at the left edge of a plateau; nextafter keeps u·total below the total
    target = torch.minimum(u.double()[:, None] * total, torch.nextafter(total, torch.zeros_like(total)))
    return torch.searchsorted(cdf, target, right=True)[:, 0]


def temper(weights: Tensor, temperature: float) -> Tensor:
    """w^(1/temperature) for weights [R, S], each row up to a factor: below 1 the likely gains, above 1 the rare.

    Zeros stay zeros. This changes the distribution (the softmax temperature of language models).
    """
    if temperature == 1.0:
        return weights
    # relative to the largest, so that no power of a row under- or overflows as a whole
    log = weights.double().log()
    return ((log - log.amax(-1, keepdim=True)) / temperature).exp().nan_to_num(nan=0.0)


def nucleus(weights: Tensor, top_p: float) -> Tensor:
    """The fewest largest of weights [R, S] that hold the share top_p of their row, the others 0 (Holtzman et al. 2020).

    At least one entry stays; of equal entries at the edge those with the lower index. This changes the distribution.
    """
    if top_p >= 1.0:
        return weights
    rows = _rows(weights)
    parts = [_nucleus(part, top_p) for part in weights.split(rows)]
    return torch.cat(parts) if parts else weights


def _nucleus(weights: Tensor, top_p: float) -> Tensor:
    ordered, order = torch.sort(weights.double(), dim=-1, descending=True, stable=True)
    before = ordered.cumsum(-1) - ordered
    # an entry stays while those before it do not hold the share; rounding must not drop the first
    kept = before < top_p * ordered.sum(-1, keepdim=True)
    kept[:, 0] = True
    return weights * torch.zeros_like(kept).scatter(-1, order, kept)
