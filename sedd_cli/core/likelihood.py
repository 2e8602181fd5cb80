"""Upper bounds on −log p(x0), as averages over independent draws (section 3.2 of the paper).

A draw corrupts a sequence at one noise level and weighs the score entropy there. Two bounds:

* `paper_bound`: the published protocol, t ~ U(t_min, 1), no prior and no reconstruction term.
* `rigorous_bound`: a true bound for the model that sampling simulates: the integral over all noise, plus, on the
  uniform graph, both end terms.

And two forms of each, with the same expectation. By time: v places the noise level, each position is hit or not. By
count (absorbing): v places the number of masks. There a `cost` of each token, such as its surprisal under a unigram
model, may serve as a control variate: what has to be averaged is then only how the loss differs from it.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from sedd_cli.core.graphs import Draw
from sedd_cli.core.score import ScoreModel

#: Smallest time the networks are trained at (appendix C.2).
T_MIN = 1e-3


def stratified(count: int, u: Tensor) -> Tensor:
    """Numbers in (0, 1), one in each of `count` equal strata: (i + u_i)/count for u [count]."""
    return (torch.arange(count, device=u.device, dtype=u.dtype) + u) / count


def paper_bound(
    model: ScoreModel,
    x0: Tensor,
    v: Tensor,
    u: Tensor,
    t_min: float = T_MIN,
    count: bool = False,
    cost: Tensor | None = None,
) -> Tensor:
    """σ̄′(t)·Σ score entropy at t = t_min + (1 − t_min)·v: an estimate per sequence [B], nats.

    v [B] float64 places the time, u [B, L] float64 decides what is corrupted. The training loss
    (algorithm 1) is the mean of the same quantity. count, cost [B, L]: see above.
    """
    if count:
        ends = model.noise.sigma(t_min), model.noise.sigma(1.0)
        return _by_count(model, x0, v, u, *ends, cost) / (1 - t_min)
    sigma, dsigma = model.noise(t_min + (1 - t_min) * v)
    return _weighed(model, Draw(model.graph.perturb(x0, sigma, u), sigma, dsigma), x0)


def rigorous_bound(
    model: ScoreModel,
    x0: Tensor,
    v: Tensor,
    u: Tensor,
    u_end: Tensor,
    count: bool = False,
    cost: Tensor | None = None,
) -> Tensor:
    """One unbiased estimate per sequence [B], nats, of a true upper bound on −log p(x0).

    v [B] places the noise; u and u_end [B, L] are uniforms for the corruption there and at the end point. The
    network is told a sigma within the range it was trained on: any score function defines a valid model, so the
    bound stays a bound. count, cost [B, L]: see above.
    """
    model = replace(model, sigma_range=(model.noise.sigma(T_MIN), model.noise.sigma(1.0)))
    if count:
        integral = _by_count(model, x0, v, u, 0.0, math.inf, cost)
    else:
        sigma, rate = model.graph.all_noise(model.noise, v)
        integral = _weighed(model, Draw(model.graph.perturb(x0, sigma, u), sigma, rate), x0)
    return integral + model.graph.end_terms(model, x0, u_end)


def both_bounds(
    model: ScoreModel, x0: Tensor, v: Tensor, u: Tensor, u_end: Tensor, cost: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """`rigorous_bound` and `paper_bound` in the count form, [B] each, from one evaluation of the network.

    They integrate the same loss, the second over a part of the noise in which both tell the network the same sigma.
    """
    ends = model.noise.sigma(T_MIN), model.noise.sigma(1.0)
    model = replace(model, sigma_range=ends)
    whole, part = model.graph.count_draw(x0, v, u, 0.0, math.inf), model.graph.count_draw(x0, v, u, *ends)
    loss = model.score_entropy(whole.x, whole.sigma, x0)
    rigorous = _controlled(model, whole, loss, cost, 0.0, math.inf) + model.graph.end_terms(model, x0, u_end)
    return rigorous, _controlled(model, part, loss, cost, *ends) / (1 - T_MIN)


def _by_count(
    model: ScoreModel, x0: Tensor, v: Tensor, u: Tensor, low: float, high: float, cost: Tensor | None
) -> Tensor:
    draw = model.graph.count_draw(x0, v, u, low, high)
    return _controlled(model, draw, model.score_entropy(draw.x, draw.sigma, x0), cost, low, high)


def _controlled(model: ScoreModel, draw: Draw, loss: Tensor, cost: Tensor | None, low: float, high: float) -> Tensor:
    found = draw.weight.to(loss.dtype) * loss
    return found if cost is None else found.double() - model.graph.control(draw, cost, low, high)


def _weighed(model: ScoreModel, draw: Draw, x0: Tensor) -> Tensor:
    loss = model.score_entropy(draw.x, draw.sigma, x0)
    return draw.weight.to(loss.dtype) * loss
