"""Steps that score only the positions that could move.

The uniforms of a step are drawn first. A position whose uniform lies above an upper bound on its probability of moving
stays, and needs no score. The head runs only at the other positions, the trunk only on sequences that have one.

On the absorbing graph the bound follows from an assumption about the normaliser, e^m ≤ 8, which training drives to 1. A
sequence is scored everywhere in its first step, and, once a normaliser above 2 has been found in it, in every later
step. The result differs from `run_reference` only if a position that was not scored exceeds 8 before any scored
position of its sequence exceeds 2. With `thinning: false` every position is scored in every step.
"""

from __future__ import annotations

from dataclasses import dataclass
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
    def has_bound(self) -> bool: ...
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
) -> tuple[Tensor, Tensor, Tensor, bool]:
    """One step of the free positions [B, L] of x [B, L], by uniforms u for moving and for the token, [B, L] each.

    In sequences with skips [B], only the free active positions are scored that could move by the bound; in the others,
    all of them. Returns (evaluations of each sequence [B], x after the step, whether every Σ_y s_y computed is at most
    the assumed largest one over CAUTION [B], whether that holds for all sequences).

    A GPU is waited for only where a number of positions has to be known, or whether there is one.
    """
    model, moved = move.model, remasked(move, x, free, u[0])
    kernels = model.kernels
    assert kernels is not None
    mean = model.parametrization != "score"
    waiting, small = free & model.graph.active(x), torch.ones_like(skips)
    assumed = kernels.mean_total(move.sigma) if mean else kernels.assumed_total(move.sigma)
    scored = chosen = waiting
    if move.draw.moves_first and assumed is not None:
        bound = move.move_bound(kernels, assumed.expand(x.shape), x)
        scored = chosen = waiting & ((u[0] < bound) | ~skips[:, None])
    at = chosen.flatten().nonzero()[:, 0]
    rows = Scored.of(move, x, scored, at)
    if rows is None:
        return torch.zeros_like(skips, dtype=torch.int64), moved, small, True
    if move.draw.moves_first and move.has_bound and assumed is None:
        here = x.flatten()[at]
        total = _totals(move, kernels, rows.hidden_at(at), here)
        at = at[u[0].flatten()[at] < move.move_bound(kernels, total, here)]
    high = _draw(move, kernels, rows, moved, at, u)
    if assumed is not None and move.bounded and not mean:
        # where one Σ_y s_y is near the assumed largest one, that of a skipped position may exceed it: score them all
        small = high <= assumed / CAUTION
        if not bool(small.all()):
            rest = (waiting & ~chosen & ~small[:, None]).flatten().nonzero()[:, 0]
            _draw(move, kernels, rows, moved, rest, u)
            return rows.evaluations, moved, small, False
    return rows.evaluations, moved, small, True


@dataclass(frozen=True)
class Scored:
    """The trunk's output [N·L, D] of the N sequences that have a position to score, of x [B, L].

    shift [B]: what is added to a place in the flattened x to find it in the output; None: nothing.
    evaluations [B]: 1 for these sequences, 0 for the others.
    """

    x: Tensor
    hidden: Tensor
    shift: Tensor | None
    evaluations: Tensor

    @classmethod
    def of(cls, move: ThinnableMove, x: Tensor, scored: Tensor, at: Tensor) -> Scored | None:
        """Evaluate the sequences with one of the positions scored [B, L], which `at` lists; None if there is none."""
        if not len(at):
            return None
        batch, length = x.shape
        if batch == 1:
            hidden, evaluations, shift = move.model.hidden(x, move.sigma.expand(1)), torch.ones_like(x[:, 0]), None
        else:
            evaluations = scored.any(1).long()
            sequences = evaluations.nonzero()[:, 0]
            hidden = move.model.hidden(x[sequences], move.sigma.expand(len(sequences)))
            shift = (evaluations.cumsum(0) - 1 - torch.arange(batch, device=x.device)) * length
        return cls(x.flatten(), hidden.flatten(0, 1), shift, evaluations)

    def hidden_at(self, at: Tensor) -> Tensor:
        """The output [R, D] at places `at` [R] of the flattened x."""
        return self.hidden.index_select(0, at if self.shift is None else at + self.shift[self.sequence(at)])

    def sequence(self, at: Tensor) -> Tensor:
        """The sequences [R] of places."""
        return at // (len(self.x) // len(self.evaluations))


def _totals(move: ThinnableMove, kernels: Kernels[Any], hidden: Tensor, x: Tensor) -> Tensor:
    """Σ_y s_y over the tokens [R], for hidden states [R, D] at positions x [R]: one pass over the vocabulary."""
    model, block = move.model, move.model.block(x.device)
    found = [
        kernels.total_of(model.log_score_of(model.net.head(h), move.sigma.expand(len(h)), at))
        for h, at in zip(hidden.split(block), x.split(block), strict=True)
    ]
    return torch.cat(found)


def _draw(
    move: ThinnableMove, kernels: Kernels[Any], rows: Scored, moved: Tensor, at: Tensor, u: tuple[Tensor, Tensor]
) -> Tensor:
    """Draw the transitions of places `at` [R] of the flattened x into `moved` [B, L].

    Returns the largest Σ_y s_y computed in each sequence, [B].
    """
    model, moved = move.model, moved.view(-1)
    high = torch.zeros(len(rows.evaluations), dtype=torch.float64, device=moved.device)
    for places in at.split(model.block(at.device)):
        if not len(places):
            continue
        here = rows.x[places]
        z = model.net.head(rows.hidden_at(places))
        log_score = model.log_score_of(z, move.sigma.expand(len(places)), here)
        high.scatter_reduce_(0, rows.sequence(places), kernels.total_of(log_score), "amax")
        transition = move.fast_transition(kernels, log_score, here)
        u_move, u_token = (each.flatten()[places] for each in u)
        moved[places] = move.draw(transition, here, u_move, u_token, move.sampler.shape)
    return high
