"""The exact distribution of what a sampler draws, by pushing that of all sequences through its steps.

No sampling error: a step of independent positions is a product, so that p'(y) = Σ_x p(x)·Π_i k_i(y_i|x) is one product
of matrices over the left and the right half of the positions (`states.push`). Where the tokens that are kept depend on
those that are drawn, all draws are enumerated (`unmask`).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from sedd_cli.core.conditioning import Conditioning
from sedd_cli.core.graphs import Transition
from sedd_cli.core.samplers import Sampler, Stepper
from sedd_cli.core.samplers.confidence import Confidence
from sedd_cli.core.samplers.first_hitting import FirstHitting
from sedd_cli.core.samplers.gibbs import Gibbs
from sedd_cli.core.samplers.parallel import Parallel
from sedd_cli.core.samplers.psi import masses
from sedd_cli.core.samplers.stepper import Move
from sedd_cli.core.score import ScoreModel
from sedd_cli.evaluation.exact.states import BATCH, Distribution, check_enumerable, push, sequences, start_distribution
from sedd_cli.evaluation.exact.unmask import confidence_distribution, parallel_distribution


@torch.no_grad()
def exact_distribution(
    model: ScoreModel, sampler: Sampler, length: int, given: dict[int, int] | None = None
) -> Distribution | None:
    """The distribution of the sampler's samples with tokens given at some positions; None where it has no such form."""
    sampler.check(model.graph)
    check_enumerable(model.graph.states, length)
    clamp = Conditioning.at(list(given or {}), list((given or {}).values()), 1, length)
    if isinstance(sampler, Stepper):
        return _stepper(model, sampler, clamp) if sampler.draws == "float64" else None
    if isinstance(sampler, Gibbs):
        return _gibbs(model, sampler, clamp)
    if isinstance(sampler, Confidence):
        return confidence_distribution(model, sampler, clamp)
    if isinstance(sampler, Parallel):
        return parallel_distribution(model, sampler, clamp)
    if isinstance(sampler, FirstHitting) and _same_at_all_times(model, length):
        one = Confidence(temperature=sampler.temperature, top_p=sampler.top_p, steps=length, order="random")
        return confidence_distribution(model, one, clamp)
    return None


def _stepper(model: ScoreModel, sampler: Stepper, clamp: Conditioning) -> Distribution:
    x, p, evaluations = sequences(model.graph.states, clamp.where.shape[1]), start_distribution(model, clamp), 0.0
    scored = (model.graph.active(x) & ~clamp.where).any(1)
    for moves in sampler.moves(model, x.device):
        for move in moves:
            evaluations += float(p[scored].sum())
            moving = (p > 0) if move.remask_probability else (p > 0) & scored  # most sequences hold no MASK, and stay
            parts = moving.nonzero()[:, 0].split(BATCH)
            p = sum((push(p[at], _kernel(move, x[at], ~clamp.where)) for at in parts), torch.where(moving, 0.0, p))
    return Distribution(p, evaluations)


def _kernel(move: Move, x: Tensor, free: Tensor) -> Tensor:
    """What a move makes of each position of x [M, L]: probabilities [M, L, S]."""
    graph = move.model.graph
    rows = F.one_hot(x, graph.states).double()
    if move.remask_probability and graph.mask is not None:
        back = (free & ~graph.active(x)).double()[..., None] * move.remask_probability
        masked = F.one_hot(torch.full_like(x, graph.mask), graph.states)
        rows = (1 - back) * rows + back * masked
    scored = (free & graph.active(x)).any(1).nonzero()[:, 0]
    for found, log_score in move.model.scored_rows(x[scored], move.sigma.expand(len(scored))) if len(scored) else ():
        step = move.transition(log_score, found.x)
        step = Transition(step.move_probability, move.sampler.shape(step.weights))
        rows[scored[found.batch], found.position] = masses(step, found.x)
    return torch.where(free[..., None], rows, F.one_hot(x, graph.states).double())


def _gibbs(model: ScoreModel, sampler: Gibbs, clamp: Conditioning) -> Distribution:
    distribution = _stepper(model, sampler.start, clamp)
    x, p, free = sequences(model.graph.states, clamp.where.shape[1]), distribution.p, (~clamp.where[0]).nonzero()[:, 0]
    rows = F.one_hot(x, model.graph.states).double()
    for i in free.tolist() * sampler.sweeps:
        conditional = sampler.shape(sampler.conditional(model, x, torch.full_like(x[:, 0], i)))
        now = rows.clone()
        now[:, i] = conditional / conditional.sum(-1, keepdim=True)
        p = push(p, now)
    return Distribution(p, distribution.evaluations + sampler.sweeps * len(free))


def _same_at_all_times(model: ScoreModel, length: int) -> bool:
    """Whether the distribution of a masked token does not depend on the noise level."""
    x = sequences(model.graph.states, length)
    x = x[(x == model.graph.mask_state).any(1)][:: max(1, len(x) // 64)]
    found = []
    for t in (0.9, 0.3):
        z = model.net.head(model.hidden(x, torch.full((len(x),), model.schedule.sigma(t), dtype=torch.float64)))
        found.append(z[..., : model.graph.vocab_size].softmax(-1, dtype=torch.float64)[x == model.graph.mask_state])
    return torch.allclose(*found, rtol=0, atol=1e-9)
