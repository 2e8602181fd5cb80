"""Tweedie τ-leaping: the optimal step that treats positions independently (theorem 4.1)."""

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
class Tweedie(Stepper):
    """Exact for a single position; the published code calls it the analytic predictor."""

    name: ClassVar[str] = "tweedie"

    def jump(self, model: ScoreModel, log_score: Tensor, x: Tensor, t: Tensor, s: Tensor) -> Transition:
        return model.graph.tweedie(log_score, x, model.schedule(t)[0] - model.schedule(s)[0])

    def move_bound(self, model: ScoreModel, total: Tensor, x: Tensor, t: Tensor, s: Tensor) -> Tensor:
        return model.graph.tweedie_bound(total, x, model.schedule(t)[0] - model.schedule(s)[0])
