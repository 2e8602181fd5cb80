"""The last step: all noise that is left is removed, and no MASK remains (algorithm 2)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from sedd_cli.core.graphs import Graph, Transition
from sedd_cli.core.graphs.transition import per_position


def decode_step(graph: Graph, log_score: Tensor, x: Tensor, sigma: Tensor) -> Transition:
    """The token y before noise sigma with probability ∝ p_sigma(x|y)·s_y, for x [R]: Bayes' rule with p_sigma for p_0.

    The likelihood bound decodes in the same way. All masses are positive, so no true token is impossible, as it is
    where the Tweedie step sets a negative mass to 0.
    """
    log_masses = decode_masses(graph, log_score, x, sigma)
    masses = (log_masses - log_masses.amax(-1, keepdim=True)).exp()
    return Transition.of_masses(masses, x)


def decode_masses(graph: Graph, log_score: Tensor, x: Tensor, sigma: Tensor) -> Tensor:
    """The logs of the masses of `decode_step`, [R, S] float64; −inf at MASK."""
    sigma = per_position(sigma, x).expand(x.shape)
    return _without_mask(graph, log_score.double() + graph.transition_into(sigma, x).log(), x, -torch.inf)


def denoise_step(graph: Graph, log_score: Tensor, x: Tensor, sigma: Tensor) -> Transition:
    """The Tweedie step from sigma to no noise, (e^{−σ·Q} s)_y · e^{σ·Q}(x, y) over the tokens y, for x [R]."""
    sigma = per_position(sigma, x).expand(x.shape)
    masses = graph.propagate(-sigma, log_score.double().exp()) * graph.transition_into(sigma, x)
    return Transition.of_masses(_without_mask(graph, masses, x, 0.0), x)


def greedy_step(graph: Graph, log_score: Tensor, x: Tensor, sigma: Tensor) -> Transition:
    """The token y with the largest score s_y, for x [R] under noise sigma; of equal ones that with the lowest id.

    s_x is 1. Scores are compared among x and the states that noise leads from to x, which alone are trained. Of exact
    scores this is the likeliest state under noise sigma given all other positions; x itself does not count. It is the
    token of the greedy noise removal of MDLM's and Duo's code, the likeliest by the network's distribution q, at MASK
    and where q stands in the place of the clean token (`plug_in_score`). Where q is p(x0|x) (`mean_score`), it is the
    one with the largest q(y)/p_sigma(x|y) on the uniform graph.
    """
    sigma = per_position(sigma, x).expand(x.shape)
    compared = (graph.between(sigma, sigma).rate_into(x) > 0).scatter(-1, x[..., None], True)
    best = _without_mask(graph, log_score.masked_fill(~compared, -torch.inf), x, -torch.inf).argmax(-1)
    return Transition.of_masses(F.one_hot(best, log_score.shape[-1]).double(), x)


#: The last steps by name: by Bayes' rule, as in the published code, and as in that of MDLM and Duo.
LAST_STEPS = {"bayes": decode_step, "tweedie": denoise_step, "greedy": greedy_step}


def _without_mask(graph: Graph, values: Tensor, x: Tensor, empty: float) -> Tensor:
    if graph.mask is None:
        return values
    return values.index_fill(-1, torch.tensor([graph.mask], device=x.device), empty)
