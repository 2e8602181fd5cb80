"""The last step: all noise that is left is removed, and no MASK remains (algorithm 2)."""

from __future__ import annotations

import torch
from torch import Tensor

from sedd_cli.core.graphs import Graph, Transition
from sedd_cli.core.graphs.base import per_position


def denoise_step(graph: Graph, log_score: Tensor, x: Tensor, sigma: Tensor) -> Transition:
    """The Tweedie step from sigma to no noise, (e^{−σ·Q} s)_y · e^{σ·Q}(x, y) over the tokens y, for x [R]."""
    sigma = per_position(sigma, x).expand(x.shape)
    masses = graph.propagate(-sigma, log_score.double().exp()) * graph.transition_into(sigma, x)
    if graph.mask is not None:
        masses = masses.index_fill(-1, torch.tensor([graph.mask], device=x.device), 0.0)
    return Transition.of_masses(masses, x)
