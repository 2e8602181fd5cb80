"""A corrector: steps that keep p_t as it is (Campbell et al. 2022, section 4.4)."""

from __future__ import annotations

import torch
from torch import Tensor

from sedd_cli.core.graphs import Graph, Transition
from sedd_cli.core.graphs.transition import zero_at


def corrector_step(graph: Graph, log_score: Tensor, x: Tensor, step: Tensor) -> Transition:
    """From x to y ≠ x with probability h·(Q(y, x) + Q(x, y)·s_y): forward and reverse rates at once, h = step [R].

    Forward and reverse flux are equal between any two states that differ in one position. With exact scores p_t stays,
    up to positions that move together, as long as no probability of moving exceeds 1.
    """
    forward = zero_at(graph.rate(x), x)  # Q(y, x)
    return Transition.of_rates(forward + graph.reverse_rates(log_score, x), step)


def corrector_length(sigma: Tensor, delta: Tensor) -> Tensor:
    """h = ½λ(1 − e^{−2δ/λ}), λ = 1 − e^{−sigma} the probability that a token has moved.

    It is close to the predictor's own δ = σ̄′·Δt where that is small, and at most ½λ, so that no probability of moving
    exceeds 1.
    """
    most = -torch.expm1(-sigma) / 2
    return -most * torch.expm1(-delta / most)
