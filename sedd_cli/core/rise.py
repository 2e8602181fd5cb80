"""R·(e^v − 1), where e^v alone may overflow."""

from __future__ import annotations

import torch
from torch import Tensor


def scaled_rise(R: Tensor, v: Tensor) -> Tensor:
    """R·(e^v − 1) for R > 0, exact near v = 0 and finite wherever R·e^v is, up to |v| of twice what e^v allows.

    e^v − 1 = h·(h + 2) with h = e^{v/2} − 1, and R is applied to the first factor.
    """
    h = torch.expm1(v / 2)
    return (R * h) * (h + 2)
