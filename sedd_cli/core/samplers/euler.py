"""Euler sampling, also called τ-leaping (eq. 17).

`euler_step` is the formula for any graph. On the absorbing and uniform graphs, samplers run the closed forms of
`core.fast` instead.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from sedd_cli.core.fast import Kernels
from sedd_cli.core.graphs import Graph, Transition
from sedd_cli.core.samplers.base import SAMPLERS
from sedd_cli.core.samplers.stepper import GridStep, Stepper
from sedd_cli.core.score import ScoreModel


def euler_step(graph: Graph, log_score: Tensor, x: Tensor, step: Tensor) -> Transition:
    """δ_x(y) + Δt·σ̄′(t)·Q(x, y)·s_y for positions x [R] with log_score [R, S]; step = Δt·σ̄′(t) [R]."""
    return Transition.of_rates(graph.reverse_rates(log_score, x), step)


@SAMPLERS.register
@dataclass(frozen=True)
class Euler(Stepper):
    """All positions at once, each by a first-order step along its reverse rates."""

    name: ClassVar[str] = "euler"

    def transition(self, model: ScoreModel, log_score: Tensor, x: Tensor, t: Tensor, s: Tensor) -> Transition:
        sigma = model.schedule(t)[0]
        return euler_step(model.graph.between(sigma, sigma), log_score, x, self.coefficient(model, t, s))

    def fast_transition(self, kernels: Kernels[Any], step: GridStep, log_score: Tensor, x: Tensor) -> Transition:
        return kernels.euler(log_score, x, step.coefficient.expand(x.shape))

    def move_bound(self, kernels: Kernels[Any], step: GridStep, total: Tensor, x: Tensor) -> Tensor:
        return kernels.euler_bound(total, x, step.coefficient.expand(x.shape))

    def coefficient(self, model: ScoreModel, t: Tensor, s: Tensor) -> Tensor:
        return (t - s) * model.schedule(t)[1]
