"""The noise levels of a model in T steps of discrete time (D3PM), for its loss and its bound."""

from __future__ import annotations

import torch
from torch import Tensor

from sedd_cli.core.score import ScoreModel


def step_noise(model: ScoreModel, v: Tensor, steps: int) -> tuple[Tensor, Tensor]:
    """(sigma_s, sigma_t) before and after step t = ⌊v·T⌋ + 1 of T, [B] each: no noise before the first step.

    Total noise after step k is `total_noise` at k/T.
    """
    t = (v * steps).floor().clamp(max=steps - 1) + 1
    sigma_s, sigma_t = (total_noise(model, k / steps) for k in (t - 1, t))
    return torch.where(t == 1, 0.0, sigma_s), sigma_t


def total_noise(model: ScoreModel, v: Tensor) -> Tensor:
    """sigma after the share v [B] in [0, 1] of the steps.

    On graphs with MASK the last step ends at all MASK, which is infinite noise: λ = 1 − e^{−sigma} = v, whatever the
    schedule. On other graphs it is the schedule at t = v, and a prior term completes the bound.
    """
    if model.graph.mask is not None:
        return -torch.log1p(-v)
    return model.schedule(v)[0]
