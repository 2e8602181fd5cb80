"""The likelihood bound of a sampler with finitely many steps: of its chain that scores every position in every step.

It holds for every `Stepper` with exact draws, with its grid, correctors, temperature and last step, in unconditional
sampling: of `samplers.stepper.run_reference`. `Stepper.run` with thinning follows the same chain, except on the
absorbing graph where a position is skipped whose normaliser exceeds what thinning assumes (`core.fast.thinning`); the
bound does not hold for samples in which that happens. Samplers without a grid (first-hitting, left to right) have no
such bound.

Samples are the ends of paths y_0, y_1, … of a Markov chain that starts in p_base and goes on by p_θ(y_{k+1}|y_k). For
any other chain q that ends in x0 for certain,

    −log p(x0) ≤ E_q [log q(y_0)/p_base(y_0) + Σ_k log q(y_{k+1}|y_k)/p_θ(y_{k+1}|y_k)]

by Jensen's inequality. A draw follows one path of q through all steps of the grid and sums the divergences, each
position's in closed form. Here q is

* where tokens only turn into MASK: the sampler's own chain, with the true token in place of the one it would draw. When
  a position is unmasked then costs nothing, and the token costs its −log probability.
* otherwise: p(y_{k+1}|y_k, x0) of the forward process, restricted to what the sampler can do; corrector steps are the
  sampler's own.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from sedd_cli.core.bounds import prior
from sedd_cli.core.categorical import inverse_cdf
from sedd_cli.core.fast.thinning import remasked
from sedd_cli.core.graphs import Graph, Transition
from sedd_cli.core.random import Stream
from sedd_cli.core.samplers.stepper import Denoise, GridStep, Move, Stepper
from sedd_cli.core.score import ScoreModel


def sampler_bound(model: ScoreModel, sampler: Stepper, x0: Tensor, noise: Stream, draw: int) -> Tensor:
    """One unbiased estimate per sequence [B], nats float64, of an upper bound on −log p(x0) of the sampler's samples.

    Path number `draw` of the stream of random numbers, x0 [B, L]. Infinite where a path that ends in x0 takes a
    move that the sampler does not make, as with top_p. For float64 draws.
    """
    sampler.check(model.graph)
    length, number = x0.shape[1], draw * (sampler.evaluations + 1)
    x, total = _start(model, x0, noise.uniforms(number, length)[0].to(x0.device)), prior(model, x0)
    for moves in sampler.moves(model, x0.device):
        for move in moves:
            number += 1
            u = [w.to(x0.device) for w in noise.uniforms(number, length)]
            x, cost = _guided(move, x, x0, u[0], u[1])
            total = total + cost
    assert torch.equal(x, x0)
    return total


def _start(model: ScoreModel, x0: Tensor, u: Tensor) -> Tensor:
    if model.graph.mask is not None:
        return torch.full_like(x0, model.graph.mask)
    sigma = torch.full((len(x0),), model.schedule.sigma(1.0), dtype=torch.float64, device=x0.device)
    return model.graph.perturb(x0, sigma, u)


@dataclass(frozen=True)
class _Rows:
    """Positions before a move: x, x0 [R], uniforms [R] for moving and for the token, sampler's transition."""

    x: Tensor
    x0: Tensor
    u_move: Tensor
    u_token: Tensor
    transition: Transition


def _guided(move: Move, x: Tensor, x0: Tensor, u_move: Tensor, u_token: Tensor) -> tuple[Tensor, Tensor]:
    """x [B, L] after a move of q, and its divergence from the sampler's move, [B] float64."""
    model, cost = move.model, torch.zeros(len(x), dtype=torch.float64, device=x.device)
    after = remasked(move, x, torch.ones_like(x, dtype=torch.bool), u_move)
    alive = model.graph.active(x).any(1).nonzero()[:, 0]
    if not len(alive):
        return after, cost
    guide = _unmask if model.graph.masking else _towards
    for rows, log_score in model.scored_rows(x[alive], move.sigma.expand(len(alive))):
        at = alive[rows.batch], rows.position
        transition = move.transition(log_score, rows.x)
        shaped = Transition(transition.move_probability, move.sampler.shape(transition.weights))
        after[at], divergence = guide(move, _Rows(rows.x, x0[at], u_move[at], u_token[at], shaped))
        cost.index_add_(0, at[0], divergence)
    return after, cost


def _unmask(move: Move, rows: _Rows) -> tuple[Tensor, Tensor]:
    """A mask is unmasked when the sampler would, by the true token: p·(−log p(x0)) for a probability p of moving."""
    weights, p = rows.transition.weights.double(), rows.transition.move_probability
    true = weights.gather(-1, rows.x0[:, None])[:, 0]
    cost = torch.where(p > 0, p * (weights.sum(-1).log() - true.log()), 0.0)
    return torch.where(rows.u_move < p, rows.x0, rows.x), cost


def _towards(move: Move, rows: _Rows) -> tuple[Tensor, Tensor]:
    """A step towards x0 by p(x_s|x_t, x0), where the sampler can take it."""
    p = _distribution(rows)
    if isinstance(move, Denoise):
        return rows.x0, -p.gather(-1, rows.x0[:, None])[:, 0].log()
    if not isinstance(move, GridStep):
        return inverse_cdf(p, rows.u_token), torch.zeros(len(p), dtype=torch.float64, device=p.device)
    q = _posterior(move.model.graph, move, rows)
    q = torch.where(p > 0, q, 0.0)
    q = q / q.sum(-1, keepdim=True)
    cost = (torch.xlogy(q, q) - torch.xlogy(q, torch.where(p > 0, p, 1.0))).sum(-1)
    return inverse_cdf(q, rows.u_token), cost


def _posterior(graph: Graph, move: GridStep, rows: _Rows) -> Tensor:
    sigma_s, sigma_t = (move.model.schedule(t)[0].expand(rows.x.shape) for t in (move.s, move.t))
    return graph.posterior(F.one_hot(rows.x0, graph.vocab_size), sigma_s, sigma_t, rows.x)


def _distribution(rows: _Rows) -> Tensor:
    """The sampler's probabilities of all states [R, S], float64."""
    weights, moves = rows.transition.weights.double(), rows.transition.move_probability[:, None]
    p = moves * weights / weights.sum(-1, keepdim=True).clamp(min=1e-300)
    return p.scatter(-1, rows.x[:, None], 1 - moves)
