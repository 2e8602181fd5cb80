"""The predictor-corrector of discrete flow matching (Gat et al. 2024, section 3.3)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from sedd_cli.core.graphs import Transition
from sedd_cli.core.graphs.transition import per_position, zero_at
from sedd_cli.core.samplers.base import SAMPLERS
from sedd_cli.core.samplers.stepper import Stepper
from sedd_cli.core.score import ScoreModel


@SAMPLERS.register
@dataclass(frozen=True)
class FlowMatching(Stepper):
    """A first-order step along 1 + β times the reverse rates and β times the forward rates, by one evaluation.

    The two together keep p_t for any β; β = 0 is Euler. This is Campbell's corrector within the step, not after it. On
    the absorbing graph a token turns into MASK with probability β·σ̄′(t)·Δt.
    """

    name: ClassVar[str] = "flow_matching"
    remasks: ClassVar[bool] = True
    beta: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.beta < math.inf:
            raise ValueError(f"beta must be finite and at least 0, found {self.beta}")

    def distribution_options(self) -> dict[str, Any]:
        return super().distribution_options() | {"beta": self.beta}

    def remask_probability(self, model: ScoreModel, t: Tensor, s: Tensor) -> Tensor:
        return (self.beta * (t - s) * model.schedule(t)[1]).clamp(max=1.0)

    def transition(self, model: ScoreModel, log_score: Tensor, x: Tensor, t: Tensor, s: Tensor) -> Transition:
        sigma, dsigma = model.schedule(t)
        graph = model.graph.between(sigma, sigma)
        forward, reverse = zero_at(graph.rate(x), x), graph.reverse_rates(log_score, x)
        rates = (1 + self.beta) * reverse.double() + self.beta * forward
        return Transition.of_rates(rates, per_position((t - s) * dsigma, x).expand(x.shape))
