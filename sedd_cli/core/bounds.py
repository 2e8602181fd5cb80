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

from sedd_cli.core.score import ScoreModel

#: Smallest time the networks are trained at (appendix C.2).
T_MIN = 1e-3
#: Every sigma there is.
ALL_NOISE = (0.0, math.inf)


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
        (integral,) = _by_count(model, x0, v, u, cost, trained_range(model, t_min))
        return integral / (1 - t_min)
    return _by_time(model, x0, u, *model.schedule(t_min + (1 - t_min) * v))


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
    model = replace(model, sigma_range=trained_range(model))
    if count:
        (integral,) = _by_count(model, x0, v, u, cost, ALL_NOISE)
    else:
        integral = _by_time(model, x0, u, *model.graph.all_noise(model.schedule, v))
    return integral + model.graph.end_terms(model, x0, u_end)


def both_bounds(
    model: ScoreModel, x0: Tensor, v: Tensor, u: Tensor, u_end: Tensor, cost: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """`rigorous_bound` and `paper_bound` in the count form, [B] each, from one evaluation of the network.

    They integrate the same loss, the second over a part of the noise in which both tell the network the same sigma.
    """
    model = replace(model, sigma_range=trained_range(model))
    whole, part = _by_count(model, x0, v, u, cost, ALL_NOISE, trained_range(model))
    return whole + model.graph.end_terms(model, x0, u_end), part / (1 - T_MIN)


def discrete_noise(model: ScoreModel, v: Tensor, steps: int) -> tuple[Tensor, Tensor]:
    """(sigma_s, sigma_t) before and after step t = ⌊v·T⌋ + 1 of T, [B] each.

    It is the noise that the rigorous bound integrates, at (t − 1)/T and t/T; none at all before the first step.
    """
    t = (v * steps).floor().clamp(max=steps - 1) + 1
    sigma_s, sigma_t = (model.graph.all_noise(model.schedule, k / steps)[0] for k in (t - 1, t))
    return torch.where(t == 1, 0.0, sigma_s), sigma_t


def discrete_bound(model: ScoreModel, x0: Tensor, v: Tensor, u: Tensor) -> Tensor:
    """One unbiased estimate per sequence [B], nats, of the variational bound of a model in T = `steps` steps (D3PM).

    T·D_KL(p(x_s|x_t, x0) ‖ p_θ(x_s|x_t)) at t ~ U{1 … T}, placed by v [B], plus the prior; the first step's divergence
    is the reconstruction. For networks of the mean parametrisation.
    """
    sigma_s, sigma_t = discrete_noise(model, v, model.steps)

    def divergence(z: Tensor, batch: Tensor, x: Tensor, x0: Tensor) -> Tensor:
        return model.graph.posterior_kl(z, sigma_s[batch], sigma_t[batch], x, x0)

    told = sigma_t.clamp(*trained_range(model))
    found = model.row_losses(model.graph.perturb(x0, sigma_t, u), told, x0, divergence)
    return model.steps * found + model.graph.prior(model, x0)


def trained_range(model: ScoreModel, t_min: float = T_MIN) -> tuple[float, float]:
    """Between t_min and 1: outside, a network of continuous time was never asked, and is told the nearest of these."""
    return model.schedule.sigma(t_min), model.schedule.sigma(1.0)


def _by_time(model: ScoreModel, x0: Tensor, u: Tensor, sigma: Tensor, rate: Tensor) -> Tensor:
    loss = model.score_entropy(model.graph.perturb(x0, sigma, u), sigma, x0)
    return rate.to(loss.dtype) * loss


def _by_count(
    model: ScoreModel, x0: Tensor, v: Tensor, u: Tensor, cost: Tensor | None, *ranges: tuple[float, float]
) -> list[Tensor]:
    """The integral over each range of sigma, [B], all from one evaluation of the network."""
    draws = [model.graph.count_draw(x0, v, u, *ends) for ends in ranges]
    loss = model.score_entropy(draws[0].x, draws[0].sigma, x0)  # they differ in their weights alone
    found = [draw.weight.to(loss.dtype) * loss for draw in draws]
    if cost is None:
        return found
    return [
        one.double() - model.graph.control(draw, cost, *ends)
        for one, draw, ends in zip(found, draws, ranges, strict=True)
    ]
