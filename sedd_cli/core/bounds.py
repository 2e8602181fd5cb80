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
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from sedd_cli.core.losses.d3pm import discrete_noise, integrated_noise
from sedd_cli.core.losses.score_entropy import sequence_score_entropy
from sedd_cli.core.schedules import T_MIN
from sedd_cli.core.score import ScoreModel, trained_range

#: Every sigma there is.
ALL_NOISE = (0.0, math.inf)
#: Numbers of masks k are drawn ∝ k to the minus this: measured best between 0 and 0.7 on a trained model.
COUNT_POWER = 1 / 3


@dataclass(frozen=True)
class CountDraw:
    """Sequences x [B, L] under noise sigma [B]; weight [B] · Σ score entropy estimates an integral over sigma."""

    x: Tensor
    sigma: Tensor
    weight: Tensor


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
    network gets sigma clamped to the range it was trained on: any score function defines a valid model, so the
    bound stays a bound. count, cost [B, L]: see above.
    """
    model = replace(model, sigma_range=trained_range(model))
    if count:
        (integral,) = _by_count(model, x0, v, u, cost, ALL_NOISE)
    else:
        integral = _by_time(model, x0, u, *integrated_noise(model, v))
    return integral + end_terms(model, x0, u_end)


def both_bounds(
    model: ScoreModel, x0: Tensor, v: Tensor, u: Tensor, u_end: Tensor, cost: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """`rigorous_bound` and `paper_bound` in the count form, [B] each, from one evaluation of the network.

    They integrate the same loss, the second over a part of the noise where the network gets the same sigma from both.
    """
    model = replace(model, sigma_range=trained_range(model))
    whole, part = _by_count(model, x0, v, u, cost, ALL_NOISE, trained_range(model))
    return whole + end_terms(model, x0, u_end), part / (1 - T_MIN)


def discrete_bound(model: ScoreModel, x0: Tensor, v: Tensor, u: Tensor) -> Tensor:
    """One unbiased estimate per sequence [B], nats, of the variational bound of a model in T = `steps` steps (D3PM).

    T·D_KL(p(x_s|x_t, x0) ‖ p_θ(x_s|x_t)) at t ~ U{1 … T}, placed by v [B], plus the prior; the first step's divergence
    is the reconstruction. For networks of the mean parametrisation.
    """
    steps = model.steps
    assert steps is not None, "a model in discrete time"
    sigma_s, sigma_t = discrete_noise(model, v, steps)

    def divergence(z: Tensor, batch: Tensor, x: Tensor, x0: Tensor) -> Tensor:
        return model.graph.posterior_kl(z, sigma_s[batch], sigma_t[batch], x, x0)

    clamped = sigma_t.clamp(*trained_range(model))
    found = model.row_losses(model.graph.perturb(x0, sigma_t, u), clamped, x0, divergence)
    return steps * found + prior(model, x0)


def _by_time(model: ScoreModel, x0: Tensor, u: Tensor, sigma: Tensor, rate: Tensor) -> Tensor:
    loss = sequence_score_entropy(model, model.graph.perturb(x0, sigma, u), sigma, x0)
    return rate.to(loss.dtype) * loss


def _by_count(
    model: ScoreModel, x0: Tensor, v: Tensor, u: Tensor, cost: Tensor | None, *ranges: tuple[float, float]
) -> list[Tensor]:
    """The integral over each range of sigma, [B], all from one evaluation of the network."""
    draws = [count_draw(model, x0, v, u, *ends) for ends in ranges]
    loss = sequence_score_entropy(model, draws[0].x, draws[0].sigma, x0)  # they differ in their weights alone
    found = [draw.weight.to(loss.dtype) * loss for draw in draws]
    if cost is None:
        return found
    return [
        one.double() - control_variate(model, draw, cost, *ends)
        for one, draw, ends in zip(found, draws, ranges, strict=True)
    ]


def count_draw(model: ScoreModel, x0: Tensor, v: Tensor, u: Tensor, low: float, high: float) -> CountDraw:
    """The count form on graphs where tokens only turn into MASK: k masks at the k smallest uniforms u [B, L].

    λ is the k-th smallest of them. That order statistic is Beta(k, L−k+1) and independent of which positions are
    masked, so L·E_k E_λ E_{|S|=k} (1/k) Σ_{i∈S} (CE_i + e^{m_i} − 1 − m_i), k uniform, is the integral over all noise,
    also for networks that see sigma. Over a part of it, from low to high, draws outside count nothing. v [B] draws k
    ∝ k^{−1/3}, which the weight undoes: a mean over few masks scatters more.
    """
    if not model.graph.masking:
        raise ValueError(f"the graph {model.graph.name!r} has no count form: its tokens do not only turn into MASK")
    length = x0.shape[-1]
    share = torch.arange(1, length + 1, device=x0.device, dtype=torch.float64) ** -COUNT_POWER
    share /= share.sum()
    k = torch.searchsorted(share.cumsum(0), v).clamp(max=length - 1)
    lam = u.sort(-1).values.gather(-1, k[:, None])
    sigma = -torch.log1p(-lam[:, 0])
    weight = torch.expm1(sigma) / ((k + 1) * share[k])
    inside = (sigma >= low) & (sigma <= high)
    return CountDraw(torch.where(u <= lam, model.graph.mask_state, x0), sigma, torch.where(inside, weight, 0.0))


def control_variate(model: ScoreModel, draw: CountDraw, cost: Tensor, low: float, high: float) -> Tensor:
    """A number [B] with expectation 0 that varies as weight·Σ score entropy does if a token's loss is near its cost."""
    # weight/E·Σ over masks, like the loss, has the expectation ∫ (1/λ)·λ·Σ dλ: the whole sum times the range of λ
    masked = (cost * model.graph.active(draw.x)).sum(-1)
    return draw.weight / torch.expm1(draw.sigma) * masked - (math.exp(-low) - math.exp(-high)) * cost.sum(-1)


def prior(model: ScoreModel, x0: Tensor) -> Tensor:
    """D_KL(p_{1|0}(·|x0) ‖ p_base), nats per sequence [B] float64; 0 on graphs with MASK, whose noise is all MASK."""
    if model.graph.mask is not None:
        return torch.zeros(len(x0), dtype=torch.float64, device=x0.device)
    sigma = torch.full(x0.shape, model.schedule.sigma(1.0), dtype=torch.float64, device=x0.device)
    return model.graph.prior_kl(sigma, x0).sum(-1)


def end_terms(model: ScoreModel, x0: Tensor, u: Tensor) -> Tensor:
    """What the integral leaves out of the rigorous bound: prior and reconstruction, nats per sequence [B].

    On graphs with MASK the integral goes over all noise and nothing is left out. Otherwise the reconstruction is
    −log p(x0|x) for x ~ p_{σ̄(0)|0}, decoded by Bayes' rule: p(y|x) ∝ p_{σ|0}(x|y)·s_y takes p_σ for p_0. These masses
    are positive, unlike those of the Tweedie step, so one clamped mass cannot make the bound infinite.
    """
    if model.graph.mask is not None:
        return torch.zeros(len(x0), device=x0.device)
    sigma = x0.new_full((len(x0),), model.schedule.sigma(0.0), dtype=torch.float64)
    x = model.graph.perturb(x0, sigma, u)
    total = prior(model, x0)
    for rows, log_score in model.scored_rows(x, sigma):
        log_mass = log_score.double() + model.graph.transition_into(rows.sigma, rows.x).log()
        was = x0[rows.batch, rows.position]
        total.index_add_(0, rows.batch, log_mass.logsumexp(-1) - log_mass.gather(-1, was[:, None])[:, 0])
    return total
