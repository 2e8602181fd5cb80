"""Upper bounds on −log p(x0), as averages over independent draws (section 3.2 of the paper).

A draw corrupts a sequence at one noise level and weighs the score entropy there. Two families:

* `paper_bound`: the published protocol, t ~ U(t_min, 1), no prior and no reconstruction term.
* `rigorous_bound`: a true bound for the model that sampling simulates. The graph says how: the absorbing
  graph by its count form, the uniform graph by the time integral over [0, 1] plus both end terms.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from sedd_cli.core.score import ScoreModel

#: Smallest time the networks are trained at (appendix C.2).
T_MIN = 1e-3


def stratified(count: int, u: Tensor) -> Tensor:
    """Numbers in (0, 1), one in each of `count` equal strata: (i + u_i)/count for u [count]."""
    return (torch.arange(count, device=u.device, dtype=u.dtype) + u) / count


def paper_bound(model: ScoreModel, x0: Tensor, v: Tensor, u: Tensor, t_min: float = T_MIN) -> Tensor:
    """σ̄′(t)·Σ score entropy at t = t_min + (1 − t_min)·v: an estimate per sequence [B], nats.

    v [B] float64 places the time, u [B, L] float64 decides what is corrupted. The training loss
    (algorithm 1) is the mean of the same quantity.
    """
    sigma, dsigma = model.noise(t_min + (1 - t_min) * v)
    loss = model.score_entropy(model.graph.perturb(x0, sigma, u), sigma, x0)
    return dsigma.to(loss.dtype) * loss


def rigorous_bound(model: ScoreModel, x0: Tensor, v: Tensor, u: Tensor, u_end: Tensor) -> Tensor:
    """One unbiased estimate per sequence [B], nats, of a true upper bound on −log p(x0).

    v [B] places the noise level; u and u_end [B, L] are uniforms for the corruption there and at the
    end point. The network is told a sigma within the range it was trained on: any score function
    defines a valid model, so the bound stays a bound.
    """
    model = replace(model, sigma_range=(model.noise.sigma(T_MIN), model.noise.sigma(1.0)))
    draw = model.graph.bound_draw(model.noise, x0, v, u)
    loss = model.score_entropy(draw.x, draw.sigma, x0)
    return draw.weight.to(loss.dtype) * loss + model.graph.end_terms(model, x0, u_end)
