"""Steps that score only the positions that could move.

The uniforms of a step are drawn first. A position whose uniform lies above an upper bound on its probability of moving
stays, and needs no score. The head runs only at the other positions, the trunk only on sequences that have one.

On the absorbing graph the bound follows from an assumption about the normaliser, e^m ≤ 8, which training drives to 1. A
sequence is scored everywhere in its first step, and, once a normaliser above 2 has been found in it, in every later
step. The result differs from `run_reference` only if a position that was not scored exceeds 8 before any scored
position of its sequence exceeds 2. With `thinning: false` every position is scored in every step.
"""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor

from sedd_cli.core.fast.base import Kernels
from sedd_cli.core.graphs import Transition
from sedd_cli.core.score import ScoreModel

#: Positions are skipped in a sequence while every Σ_y s_y computed in it is at most the assumed largest one over this.
CAUTION = 4.0


class ThinnableMove(Protocol):
    """What a step offers (`samplers.stepper.Move`): its model, its sampler, total noise, and transitions."""

    @property
    def model(self) -> ScoreModel: ...
    @property
    def sampler(self) -> Any: ...
    @property
    def sigma(self) -> Any: ...
    @property
    def bounded(self) -> bool: ...
    @property
    def remask_probability(self) -> float: ...
    @property
    def draw(self) -> Any: ...
    def fast_transition(self, kernels: Kernels[Any], log_score: Tensor, x: Tensor) -> Transition: ...
    def move_bound(self, kernels: Kernels[Any], total: Tensor, x: Tensor) -> Tensor: ...


def remasked(move: ThinnableMove, x: Tensor, free: Tensor, u_move: Tensor) -> Tensor:
    """A copy of x [B, L] in which free positions that are not active have turned into MASK with their probability."""
    graph = move.model.graph
    if move.remask_probability == 0.0 or graph.mask is None:
        return x.clone()
    return torch.where(free & ~graph.active(x) & (u_move < move.remask_probability), graph.mask, x)


def thinned_move(
    move: ThinnableMove, x: Tensor, free: Tensor, u: tuple[Tensor, Tensor], skips: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """One step of the free positions [B, L] of x [B, L], by uniforms u for moving and for the token, [B, L] each.

    In sequences with skips [B], only the free active positions are scored that could move by the bound; in the others,
    all of them. Returns (evaluations of each sequence [B], x after the step, whether every Σ_y s_y computed is at most
    the assumed largest one over CAUTION [B]).
    """
    model, moved = move.model, remasked(move, x, free, u[0])
    kernels = model.kernels
    assert kernels is not None
    mean = model.parametrization != "score"
    batch, position = (free & model.graph.active(x)).nonzero(as_tuple=True)
    scored, small = torch.zeros_like(skips, dtype=torch.int64), torch.ones_like(skips)
    if not len(batch):
        return scored, moved, small
    assumed = kernels.mean_total(move.sigma) if mean else kernels.assumed_total(move.sigma)
    if not move.draw.moves_first:
        sequences, chosen = batch.unique(), torch.ones_like(batch, dtype=torch.bool)
        hidden = _hidden(move, x, sequences)
    elif assumed is None:
        sequences = batch.unique()
        hidden = _hidden(move, x, sequences)
        at = torch.searchsorted(sequences, batch), position
        total = _totals(move, kernels, hidden[at], x[batch, position])
        chosen = u[0][batch, position] < move.move_bound(kernels, total, x[batch, position])
    else:
        bound = move.move_bound(kernels, assumed.expand(len(batch)), x[batch, position])
        chosen = (u[0][batch, position] < bound) | ~skips[batch]
        sequences = batch[chosen].unique()
        hidden = _hidden(move, x, sequences)
    scored[sequences] = 1
    high = _draw(move, kernels, x, moved, sequences, hidden, batch[chosen], position[chosen], u)
    if assumed is not None and move.bounded and not mean:
        # where one Σ_y s_y is near the assumed largest one, that of a skipped position may exceed it: score them all
        small = high <= float(assumed) / CAUTION
        rest = ~chosen & ~small[batch]
        if bool(rest.any()):
            _draw(move, kernels, x, moved, sequences, hidden, batch[rest], position[rest], u)
    return scored, moved, small


def _totals(move: ThinnableMove, kernels: Kernels[Any], hidden: Tensor, x: Tensor) -> Tensor:
    """Σ_y s_y over the tokens [R], for hidden states [R, D] at positions x [R]: one pass over the vocabulary."""
    model = move.model
    found = [
        kernels.total_of(model.log_score_of(model.net.head(h), move.sigma.expand(len(h)), at))
        for h, at in zip(hidden.split(model.block), x.split(model.block), strict=True)
    ]
    return torch.cat(found) if found else move.sigma.new_zeros(0, dtype=torch.float64)


def _hidden(move: ThinnableMove, x: Tensor, sequences: Tensor) -> Tensor:
    """The trunk's output for some of the sequences."""
    if not len(sequences):
        return x.new_zeros(0)
    return move.model.hidden(x[sequences], move.sigma.expand(len(sequences)))


def _draw(
    move: ThinnableMove, kernels: Kernels[Any], x: Tensor, moved: Tensor, sequences: Tensor, hidden: Tensor,
    batch: Tensor, position: Tensor, u: tuple[Tensor, Tensor],
) -> Tensor:  # fmt: skip
    """Draw the transitions of some positions into `moved`; the largest Σ_y s_y computed in each sequence [B]."""
    model = move.model
    high = torch.zeros(len(x), dtype=torch.float64, device=x.device)
    for b, i in zip(batch.split(model.block), position.split(model.block), strict=True):
        if not len(b):
            continue
        here = x[b, i]
        z = model.net.head(hidden[torch.searchsorted(sequences, b), i])
        log_score = model.log_score_of(z, move.sigma.expand(len(b)), here)
        high.scatter_reduce_(0, b, kernels.total_of(log_score), "amax")
        transition = move.fast_transition(kernels, log_score, here)
        moved[b, i] = move.draw(transition, here, u[0][b, i], u[1][b, i], move.sampler.shape)
    return high
