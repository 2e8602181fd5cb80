"""Bounds on −log p(x0) and the paper's estimate of one, as averages over independent draws (theorem 3.6).

A draw corrupts a sequence at one noise level and weighs the score entropy there. Two integrals:

* `paper_bound`: the published protocol, t ~ U(t_min, 1). It has no prior and no reconstruction term, so it is an
  estimate and not a bound.
* `rigorous_bound`: a true bound for the process that samplers approach as their steps grow: it starts in p_base at
  t = 1, follows the reverse rates in continuous time down to t = T_END, and ends with the samplers' last step. The
  network gets the sigma that samplers give it.

And two forms of each, with the same expectation. By time: v places the noise level, and each position is corrupted
independently. By count (absorbing): v places the number of masks. There a `cost` of each token, such as its surprisal
under a unigram model, may serve as a control variate: then only the difference of the loss from it has to be averaged.
The argument `count` chooses between the two.

`core.sampler_bound` has the bound of a sampler with finitely many steps.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from sedd_cli.core.categorical import inverse_cdf
from sedd_cli.core.count_form import control_variate, count_draw
from sedd_cli.core.discrete_time import step_noise
from sedd_cli.core.losses.score_entropy import sequence_score_entropy
from sedd_cli.core.placement import placed_lambda, placed_sigma
from sedd_cli.core.samplers.denoise import decode_masses
from sedd_cli.core.samplers.grids import T_END
from sedd_cli.core.schedules import T_MIN
from sedd_cli.core.score import ScoreModel, trained_range

#: The largest ratio of two densities of draws for which one evaluation of the network serves two bounds.
MOST_RATIO = 10.0


def stratified(strata: int, u: Tensor) -> Tensor:
    """Numbers in (0, 1), one in each of `strata` equal strata: (i + u_i)/strata for u [strata]."""
    return (torch.arange(strata, device=u.device, dtype=u.dtype) + u) / strata


def paper_bound(
    model: ScoreModel,
    x0: Tensor,
    v: Tensor,
    u: Tensor,
    t_min: float = T_MIN,
    count: bool = False,
    cost: Tensor | None = None,
    placed: bool = False,
) -> Tensor:
    """σ̄′(t)·Σ score entropy at t = t_min + (1 − t_min)·v: an estimate per sequence [B], nats.

    v [B] float64 places the time, u [B, L] float64 the corruption. The training loss (algorithm 1)
    is the mean of the same quantity. count, cost [B, L]: see above. placed: draw more often where noise
    is small (`core.placement`), which lowers the variance and leaves the mean.
    """
    if count:
        (integral,) = _by_count(model, x0, v, u, cost, _paper_part(model, t_min))
        return integral / (1 - t_min)
    if placed:
        sigma, weight = placed_sigma(v, *trained_range(model, t_min), x0.shape[-1])
        weight = weight / (1 - t_min)
    else:
        sigma, weight = model.schedule(t_min + (1 - t_min) * v)
    return _weighed(model, x0, model.graph.perturb(x0, sigma, u), sigma, weight)


def rigorous_bound(
    model: ScoreModel,
    x0: Tensor,
    v: Tensor,
    u: Tensor,
    u_end: Tensor,
    count: bool = False,
    cost: Tensor | None = None,
    decodes: bool = True,
) -> Tensor:
    """One unbiased estimate per sequence [B], nats, of a true upper bound on −log p(x0).

    v [B] places the noise; u and u_end [B, L] are uniforms for the corruption there and at the end point. Draws are
    placed so that the variance is finite (`core.placement`). count, cost [B, L]: see above. decodes: False where tokens
    only turn into MASK and no last step decodes what is left at T_END: masks are unmasked one by one down to no noise,
    as by first-hitting.
    """
    if not model.graph.masking:
        sigma, weight = placed_sigma(v, *sampled_range(model), x0.shape[-1])
        return _weighed(model, x0, corrupted(model, x0, sigma, u), sigma, weight) + end_terms(model, x0, u_end)
    end = end_terms(model, x0, u_end) if decodes else torch.zeros_like(v, dtype=torch.float64)
    model, whole = _above_the_end(model), _whole(model, x0.shape[-1], decodes)
    if count:
        return _by_count(model, x0, v, u, cost, whole)[0] + end
    # a token is masked with probability lam at a time when the schedule alone would mask λ̄(1)·lam of them
    lam, slope = placed_lambda(v, x0.shape[-1])
    sigma = -torch.log1p(-lam * full_lambda(model))
    x = torch.where(u < lam[:, None], model.graph.mask_state, x0)
    weight = torch.where(sigma >= whole.low, slope * torch.expm1(sigma) / lam, 0.0)
    return _weighed(model, x0, x, sigma, weight) + end


def both_bounds(
    model: ScoreModel, x0: Tensor, v: Tensor, u: Tensor, u_end: Tensor, cost: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """`rigorous_bound` and `paper_bound` in the count form, [B] each, from one evaluation of the network.

    They integrate the same loss, the second over a part of the noise. Where λ̄(1) is so far from 1 that the densities of
    their draws differ by more than MOST_RATIO, each takes an evaluation of its own.
    """
    end, above = end_terms(model, x0, u_end), _above_the_end(model)
    part, all_noise = _paper_part(model, T_MIN), _whole(model, x0.shape[-1])
    if all_noise.reweighted:
        whole, paper = _by_count(above, x0, v, u, cost, all_noise, part)
    else:
        ((whole,), (paper,)) = (_by_count(above, x0, v, u, cost, one) for one in (all_noise, part))
    return whole + end, paper / (1 - T_MIN)


def discrete_bound(model: ScoreModel, x0: Tensor, v: Tensor, u: Tensor) -> Tensor:
    """One unbiased estimate per sequence [B], nats, of the variational bound of a model in T = `steps` steps (D3PM).

    T·D_KL(p(x_s|x_t, x0) ‖ p_θ(x_s|x_t)) at t ~ U{1 … T}, placed by v [B], plus the prior; the first step's divergence
    is the reconstruction. For networks of the mean parametrisation.
    """
    steps = model.steps
    assert steps is not None, "a model in discrete time"
    sigma_s, sigma_t = step_noise(model, v, steps)

    def divergence(z: Tensor, batch: Tensor, x: Tensor, x0: Tensor) -> Tensor:
        return model.graph.posterior_kl(z, sigma_s[batch], sigma_t[batch], x, x0)

    clamped = sigma_t.clamp(*trained_range(model))
    found = model.row_losses(model.graph.perturb(x0, sigma_t, u), clamped, x0, divergence)
    return steps * found + prior(model, x0)


def sampled_range(model: ScoreModel) -> tuple[float, float]:
    """The total noise at T_END and at 1, between which samplers run."""
    return model.schedule.sigma(T_END), model.schedule.sigma(1.0)


def full_lambda(model: ScoreModel) -> float:
    """λ̄(1), the probability that the schedule has moved a token at t = 1: 0.999 under loglinear noise.

    Samplers start there with every position masked. Their reverse rates are those of a process whose probability of
    being masked at t is λ̄(t)/λ̄(1), and that is the process that the rigorous bound corrupts by.
    """
    return -math.expm1(-model.schedule.sigma(1.0))


def corrupted(model: ScoreModel, x0: Tensor, sigma: Tensor, u: Tensor) -> Tensor:
    """Draw x [B, L] at noise sigma [B] for the rigorous bound, by uniforms u [B, L].

    On graphs with MASK, from which samplers start, x is also conditioned on MASK at t = 1: p(x_σ|x0, x_1 = MASK).
    """
    graph = model.graph
    if graph.mask is None:
        return graph.perturb(x0, sigma, u)
    last = sigma.new_full(sigma.shape, model.schedule.sigma(1.0), dtype=torch.float64)
    p = graph.posterior(F.one_hot(x0, graph.vocab_size), sigma, last, torch.full_like(x0, graph.mask))
    return inverse_cdf(p.reshape(-1, graph.states), u.reshape(-1)).view(x0.shape)


def prior(model: ScoreModel, x0: Tensor) -> Tensor:
    """D_KL(p_{1|0}(·|x0) ‖ p_base), nats per sequence [B] float64.

    0 on graphs with MASK: the process that the rigorous bound corrupts by is at MASK everywhere at t = 1.
    """
    if model.graph.mask is not None:
        return torch.zeros(len(x0), dtype=torch.float64, device=x0.device)
    sigma = torch.full(x0.shape, model.schedule.sigma(1.0), dtype=torch.float64, device=x0.device)
    return model.graph.prior_kl(sigma, x0).sum(-1)


def end_terms(model: ScoreModel, x0: Tensor, u: Tensor) -> Tensor:
    """What the integral leaves out of the rigorous bound: prior and reconstruction, nats per sequence [B].

    The reconstruction is −log p(x0|x) for x at T_END, where the samplers' last step decodes x (`decode_step`). The
    network is evaluated for sequences alone that have something to decode: with MASK, hardly any under most schedules.
    """
    sigma, total = sampled_range(model)[0], prior(model, x0)
    if model.graph.masking:
        # as `corrupted` draws, without a probability for every token
        x = torch.where(u > 1 + math.expm1(-sigma) / full_lambda(model), model.graph.mask_state, x0)
    else:
        x = corrupted(model, x0, x0.new_full((len(x0),), sigma, dtype=torch.float64), u)
    left = model.graph.active(x).any(-1).nonzero()[:, 0]
    if not len(left):
        return total
    model = model.given_clean(x0[left])
    for rows, log_score in model.scored_rows(x[left], x0.new_full((len(left),), sigma, dtype=torch.float64)):
        log_mass = decode_masses(model.graph, log_score, rows.x, rows.sigma)
        batch = left[rows.batch]
        was = x0[batch, rows.position]
        total.index_add_(0, batch, log_mass.logsumexp(-1) - log_mass.gather(-1, was[:, None])[:, 0])
    return total


@dataclass(frozen=True)
class _Part:
    """A part of the noise that the count form integrates: sigma from low to high, `full` as for `count_draw`."""

    low: float
    high: float
    full: float = 1.0
    reweighted: bool = False

    @property
    def mass(self) -> float:
        return (math.exp(-self.low) - math.exp(-self.high)) / self.full


def _paper_part(model: ScoreModel, t_min: float) -> _Part:
    return _Part(*trained_range(model, t_min))


def _whole(model: ScoreModel, length: int, decodes: bool = True) -> _Part:
    """All noise of sampling, down to T_END if a last step decodes what is left there.

    Where λ̄(1) is near 1, by the draws of the paper's part, so that both can share them.
    """
    (low, high), full = sampled_range(model), full_lambda(model)
    return _Part(low if decodes else 0.0, high, full, reweighted=full**-length <= MOST_RATIO)


def _above_the_end(model: ScoreModel) -> ScoreModel:
    """The model with a network that gets no noise below that at T_END."""
    return replace(model, sigma_range=(sampled_range(model)[0], math.inf))


def _weighed(model: ScoreModel, x0: Tensor, x: Tensor, sigma: Tensor, weight: Tensor) -> Tensor:
    loss = sequence_score_entropy(model, x, sigma, x0)
    return weight.to(loss.dtype) * loss


def _by_count(model: ScoreModel, x0: Tensor, v: Tensor, u: Tensor, cost: Tensor | None, *parts: _Part) -> list[Tensor]:
    """The integral over each part of the noise, [B], all from one evaluation of the network."""
    draws = [count_draw(model, x0, v, u, part.low, part.high, part.full, part.reweighted) for part in parts]
    loss = sequence_score_entropy(model, draws[0].x, draws[0].sigma, x0)  # they differ in their weights alone
    found = [draw.weight.to(loss.dtype) * loss for draw in draws]
    if cost is None:
        return found
    return [
        one.double() - control_variate(model, draw, cost, part.mass)
        for one, draw, part in zip(found, draws, parts, strict=True)
    ]
