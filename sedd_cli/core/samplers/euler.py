"""Euler sampling, also called τ-leaping (eq. 17)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from sedd_cli.core.graphs import Transition
from sedd_cli.core.samplers.base import SAMPLERS
from sedd_cli.core.samplers.stepper import Stepper
from sedd_cli.core.score import ScoreModel


@SAMPLERS.register
@dataclass(frozen=True)
class Euler(Stepper):
    """All positions at once, each by a first-order step of the reverse rates."""

    name: ClassVar[str] = "euler"

    def jump(self, model: ScoreModel, log_score: Tensor, x: Tensor, t: Tensor, s: Tensor) -> Transition:
        return model.graph.euler(log_score, x, (t - s) * model.schedule(t)[1])

    def move_bound(self, model: ScoreModel, total: Tensor, x: Tensor, t: Tensor, s: Tensor) -> Tensor:
        return model.graph.euler_bound(total, x, (t - s) * model.schedule(t)[1])
