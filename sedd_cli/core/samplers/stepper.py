"""Samplers that go down a grid of times, by draws whose uniforms are known first.

Two forms of the same process, equal for equal uniforms but for the rounding of products taken in other blocks.
`run_plain` scores every active position of every sequence at every step. `Stepper.run` draws the uniforms first and
looks only where a position could move: the head at candidates alone, the trunk at sequences that have one. On the
absorbing graph what could move follows from a bound on the normaliser, e^m ≤ 8, which training drives to 1: a sequence
is looked at everywhere in its first step, and from then on in every step once a normaliser above 2 has been seen in
it. The two forms differ only if a position that was not looked at exceeds 8 before any in its sequence that was looked
at exceeds 2; with `thinning: false` every position is looked at in every step, and they never do.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from sedd_cli.core.conditioning import Conditioning
from sedd_cli.core.graphs import Transition
from sedd_cli.core.random import BASE, SAMPLER, Stream
from sedd_cli.core.samplers.base import Denoised, Sampler, lever
from sedd_cli.core.samplers.draws import DRAWS
from sedd_cli.core.samplers.grids import GRIDS
from sedd_cli.core.samplers.moves import Correction, Denoise, GridStep, Move
from sedd_cli.core.score import ScoreModel

#: The bound is trusted while no Σ_y s_y that was seen exceeds it over this.
MARGIN = 4.0


@dataclass(frozen=True)
class Stepper(Sampler):
    """One way to step from noise level t to s < t, and the grid it is stepped along.

    thinning: look only at positions that could move while scores are near normalised; false: at all, always.
    grid: where the steps lie (`grids`). correctors: corrections after each step (`moves.Correction`).
    draws: float64, or float32-gumbel as in the published code.
    """

    steps: int = 128
    thinning: bool = True
    grid: str = lever("linear")
    correctors: int = lever(0)
    draws: str = lever("float64")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.steps < 1:
            raise ValueError(f"steps must be at least 1, found {self.steps}")
        if self.correctors < 0:
            raise ValueError(f"correctors must be at least 0, found {self.correctors}")
        for key, known in (("grid", GRIDS), ("draws", DRAWS)):
            if getattr(self, key) not in known:
                raise ValueError(f"{key} must be one of {', '.join(known)}, found {getattr(self, key)!r}")

    @abstractmethod
    def jump(self, model: ScoreModel, log_score: Tensor, x: Tensor, t: Tensor, s: Tensor) -> Transition:
        """The transition from t to s (each [R]) at positions x [R] with log_score [R, S]."""

    @abstractmethod
    def move_bound(self, model: ScoreModel, total: Tensor, x: Tensor, t: Tensor, s: Tensor) -> Tensor:
        """At least `jump`'s leave, float64 [R], from total [R] ≥ Σ_y s_y over the tokens."""

    def renoise(self, model: ScoreModel, t: Tensor, s: Tensor) -> Tensor:
        """The chance that a token turns back into MASK between t and s, of their shape."""
        return torch.zeros_like(t)

    def moves(self, model: ScoreModel, grid: Tensor, k: int) -> list[Move]:
        """What step k of the grid consists of."""
        t = grid[k]
        if k == self.steps:
            return [Denoise(self, model, t)]
        s = grid[k + 1]
        return [GridStep(self, model, t, s)] + [
            Correction(self, model, s, (t - s) * model.schedule(s)[1])
        ] * self.correctors

    def run(self, model: ScoreModel, given: Conditioning, seed: int | Tensor, index: Tensor) -> Iterator[Denoised]:
        grid, x, noise = _start(self, model, given, seed, index)
        evaluations, fallbacks, number = torch.zeros_like(index), 0, 0
        trusted = torch.full_like(index, model.mean, dtype=torch.bool)
        for k in range(self.steps + 1):
            fell_back = False
            for move in self.moves(model, grid, k):
                u = noise.uniforms(number, x.shape[1])
                free = ~given.where
                # the first look is at every position, to see whether the bound can be trusted at all
                doubted = (model.graph.active(x) & free).any(1) & ~trusted
                fell_back |= self.thinning and 0 < k < self.steps and bool(doubted.any())
                looked_at, moved, held = _take(move, x, free, u, trusted)
                trusted = held & (trusted | (number == 0)) & (model.mean or self.thinning)
                x = moved  # given tokens are not free
                evaluations = evaluations + looked_at
                number += 1
            fallbacks += fell_back
            yield Denoised(k + 1, self.steps + 1, x, evaluations, fallbacks)


def run_plain(model: ScoreModel, sampler: Stepper, given: Conditioning, seed: int, index: Tensor) -> Iterator[Tensor]:
    """The slow, obvious form of `Stepper.run`: scores at every active position; yields x [B, L] after every step."""
    grid, x, noise = _start(sampler, model, given, seed, index)
    number = 0
    for k in range(sampler.steps + 1):
        for move in sampler.moves(model, grid, k):
            u_move, u_token = noise.uniforms(number, x.shape[1])
            moved = _renoised(move, x, ~given.where, u_move)
            for rows, log_score in model.scored_rows(x, move.sigma.expand(len(x))):
                at = rows.batch, rows.position
                jump = move.jump(log_score, rows.x)
                moved[at] = DRAWS[sampler.draws](jump, rows.x, u_move[at], u_token[at], sampler.shape)
            x = given(moved)
            number += 1
        yield x


def _start(
    sampler: Stepper, model: ScoreModel, given: Conditioning, seed: int | Tensor, index: Tensor
) -> tuple[Tensor, Tensor, Stream]:
    sampler.check(model.graph)
    length = given.where.shape[1]
    x = given(model.graph.sample_base(Stream(seed, BASE, index).uniforms(0, length)[0]))
    grid = GRIDS[sampler.grid](model.schedule, sampler.steps)
    return grid.to(index.device), x, Stream(seed, SAMPLER, index)


def _renoised(move: Move, x: Tensor, free: Tensor, u_move: Tensor) -> Tensor:
    """x [B, L] with the free positions that the network has no say in turned into MASK at their rate; a copy."""
    if move.renoise == 0.0 or move.model.graph.mask is None:
        return x.clone()
    back = free & ~move.model.graph.active(x) & (u_move < move.renoise)
    return torch.where(back, move.model.graph.mask, x)


def _take(
    move: Move, x: Tensor, free: Tensor, u: tuple[Tensor, Tensor], trusted: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """(evaluations of each sequence [B], x after the move, where every Σ_y s_y seen is well below the bound [B]).

    In sequences not trusted [B] every free position is looked at, elsewhere those that the bound lets move.
    """
    model, moved = move.model, _renoised(move, x, free, u[0])
    batch, position = (free & model.graph.active(x)).nonzero(as_tuple=True)
    looked_at, held = torch.zeros_like(trusted, dtype=torch.int64), torch.ones_like(trusted)
    if not len(batch):
        return looked_at, moved, held
    assumed = model.assumed_total(move.sigma)
    if not DRAWS[move.sampler.draws].moves_first:
        sequences, chosen = batch.unique(), torch.ones_like(batch, dtype=torch.bool)
        hidden = _hidden(move, x, sequences)
    elif assumed is None:
        sequences = batch.unique()
        hidden = _hidden(move, x, sequences)
        at = torch.searchsorted(sequences, batch), position
        total = model.totals(hidden[at], move.sigma, x[batch, position])
        chosen = u[0][batch, position] < move.bound(total, x[batch, position])
    else:
        bound = move.bound(assumed.expand(len(batch)), x[batch, position])
        chosen = (u[0][batch, position] < bound) | ~trusted[batch]
        sequences = batch[chosen].unique()
        hidden = _hidden(move, x, sequences)
    looked_at[sequences] = 1
    high = _move(move, x, moved, sequences, hidden, batch[chosen], position[chosen], u)
    if assumed is not None and move.bounded and not model.mean:
        # a score near the assumed bound may have company beyond it, among the positions not looked at
        held = high <= float(assumed) / MARGIN
        rest = ~chosen & ~held[batch]
        if bool(rest.any()):
            _move(move, x, moved, sequences, hidden, batch[rest], position[rest], u)
    return looked_at, moved, held


def _hidden(move: Move, x: Tensor, sequences: Tensor) -> Tensor:
    """The trunk's output for some of the sequences."""
    if not len(sequences):
        return x.new_zeros(0)
    return move.model.hidden(x[sequences], move.sigma.expand(len(sequences)))


def _move(
    move: Move, x: Tensor, moved: Tensor, sequences: Tensor, hidden: Tensor, batch: Tensor, position: Tensor,
    u: tuple[Tensor, Tensor],
) -> Tensor:  # fmt: skip
    """Draw the transitions of some positions into `moved`; the largest Σ_y s_y seen in each sequence [B]."""
    model, draw = move.model, DRAWS[move.sampler.draws]
    high = torch.zeros(len(x), dtype=torch.float64, device=x.device)
    for b, i in zip(batch.split(model.block), position.split(model.block), strict=True):
        if not len(b):
            continue
        here = x[b, i]
        z = model.net.head(hidden[torch.searchsorted(sequences, b), i])
        log_score = model.log_score_of(z, move.sigma.expand(len(b)), here)
        high.scatter_reduce_(0, b, model.graph.total_of(log_score), "amax")
        jump = move.jump(log_score, here)
        moved[b, i] = draw(jump, here, u[0][b, i], u[1][b, i], move.sampler.shape)
    return high
