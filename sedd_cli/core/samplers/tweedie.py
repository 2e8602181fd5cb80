"""Tweedie τ-leaping (eq. 19): with exact scores the best step that treats positions independently (theorem 4.2).

`tweedie_step` is the formula for any graph. On the absorbing and uniform graphs, samplers run the closed forms of
`core.fast` instead.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from sedd_cli.core.fast import Kernels
from sedd_cli.core.graphs import Graph, Transition
from sedd_cli.core.graphs.transition import per_position
from sedd_cli.core.samplers.base import SAMPLERS
from sedd_cli.core.samplers.stepper import GridStep, Stepper
from sedd_cli.core.score import ScoreModel


def tweedie_step(graph: Graph, log_score: Tensor, x: Tensor, delta_sigma: Tensor) -> Transition:
    """(e^{−Δσ·Q} s)_y · e^{Δσ·Q}(x, y) for positions x [R] with log_score [R, S], delta_sigma [R] (eq. 19).

    Float64, because e^{−Δσ·Q} magnifies the rounding of s where steps are few and long.
    """
    delta_sigma = per_position(delta_sigma, x).expand(x.shape)
    # (e^{−Δσ·Q} s)_y, the published code's name for it: with exact scores, p at the later time's y over p_t(x)
    staggered_score = graph.propagate(-delta_sigma, log_score.double().exp())
    masses = staggered_score * graph.transition_into(delta_sigma, x)  # · e^{Δσ·Q}(x, y)
    return Transition.of_masses(masses, x)


@SAMPLERS.register
@dataclass(frozen=True)
class Tweedie(Stepper):
    """Exact for a single position; the published code calls it the analytic predictor."""

    name: ClassVar[str] = "tweedie"

    def transition(self, model: ScoreModel, log_score: Tensor, x: Tensor, t: Tensor, s: Tensor) -> Transition:
        graph = model.graph.between(model.schedule(s)[0], model.schedule(t)[0])
        return tweedie_step(graph, log_score, x, self.coefficient(model, t, s))

    def fast_transition(self, kernels: Kernels[Any], step: GridStep, log_score: Tensor, x: Tensor) -> Transition:
        return kernels.tweedie(log_score, x, step.coefficient.expand(x.shape))

    def move_bound(self, kernels: Kernels[Any], step: GridStep, total: Tensor, x: Tensor) -> Tensor:
        return kernels.tweedie_bound(total, x, step.coefficient.expand(x.shape))

    def coefficient(self, model: ScoreModel, t: Tensor, s: Tensor) -> Tensor:
        return model.schedule(t)[0] - model.schedule(s)[0]
