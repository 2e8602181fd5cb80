"""Where the steps of a sampler lie in time: t_0 = 1 > t_1 > … > t_steps = 1e-5, float64 [steps + 1]."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from sedd_cli.core.schedules import Schedule

#: Where the grid ends and the final denoise starts (algorithm 2 of the published code).
T_END = 1e-5


def linear(schedule: Schedule, steps: int) -> Tensor:
    """t_k = linspace(1, 1e-5, steps + 1): the paper's."""
    return torch.linspace(1.0, T_END, steps + 1, dtype=torch.float64)


def cosine(schedule: Schedule, steps: int) -> Tensor:
    """t_k = 1e-5 + (1 − 1e-5)·cos(π/2 · k/steps): short steps first, while few tokens are known.

    MaskGIT (Chang et al. 2022); MD4 (Shi et al. 2024, section 5).
    """
    k = torch.arange(steps + 1, dtype=torch.float64)
    t = T_END + (1 - T_END) * torch.cos(math.pi / 2 * k / steps)
    t[-1] = T_END  # a float64 π/2 is not quite a right angle
    return t


def even(schedule: Schedule, steps: int) -> Tensor:
    """Equal decrements of λ = 1 − e^{−σ̄}: as many tokens are expected to change in every step, whatever the schedule.

    Under loglinear noise this is `linear`.
    """
    high, low = (-math.expm1(-schedule.sigma(t)) for t in (1.0, T_END))
    t = schedule.t(-torch.log1p(-torch.linspace(high, low, steps + 1, dtype=torch.float64)))
    t[0], t[-1] = 1.0, T_END  # not what inverting the schedule rounds them to
    return t


GRIDS = {"linear": linear, "cosine": cosine, "even": even}
