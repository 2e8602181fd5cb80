"""The noise levels of a model in T steps of discrete time (D3PM), for its loss and its bound."""

from __future__ import annotations

import torch
from torch import Tensor

from sedd_cli.core.graphs import Graph
from sedd_cli.core.schedules import Schedule
from sedd_cli.core.score import ScoreModel


def step_noise(model: ScoreModel, v: Tensor, steps: int) -> tuple[Tensor, Tensor]:
    """(sigma_s, sigma_t) before and after step t = ⌊v·T⌋ + 1 of T, [B] each: no noise before the first step.

    Total noise after step k is `total_noise` at k/T.
    """
    return noise_of_step(model.graph, model.schedule, v, steps)


def noise_of_step(graph: Graph, schedule: Schedule, v: Tensor, steps: int) -> tuple[Tensor, Tensor]:
    """`step_noise` of a model of this graph and schedule."""
    t = (v * steps).floor().clamp(max=steps - 1) + 1
    sigma_s, sigma_t = (_noise(graph, schedule, k / steps) for k in (t - 1, t))
    return torch.where(t == 1, 0.0, sigma_s), sigma_t


def total_noise(model: ScoreModel, v: Tensor) -> Tensor:
    """sigma after the share v [B] in [0, 1] of the steps.

    On graphs with MASK the last step ends at all MASK, which is infinite noise: λ = 1 − e^{−sigma} = v, whatever the
    schedule. On other graphs it is the schedule at t = v, and a prior term completes the bound.
    """
    return _noise(model.graph, model.schedule, v)


def _noise(graph: Graph, schedule: Schedule, v: Tensor) -> Tensor:
    return schedule(v)[0] if graph.mask is None else -torch.log1p(-v)
