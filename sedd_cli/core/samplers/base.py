"""The reverse process: a time grid, a stepper, and exact draws.

Two forms of the same process, equal for equal uniforms but for the rounding of products taken in other blocks.
`run_plain` scores every active position of every sequence at every step. `Sampler.run` draws the uniforms first and
looks only where a position could move: the head at candidates alone, the trunk at sequences that have one. On the
absorbing graph what could move follows from a bound on the normaliser, e^m ≤ 8, which training drives to 1: a sequence
is looked at everywhere in its first step, and from then on in every step once a normaliser above 2 has been seen in
it. The two forms differ only if a position that was not looked at exceeds 8 before any in its sequence that was looked
at exceeds 2; with `thinning: false` every position is looked at in every step, and they never do.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from sedd_cli.core.categorical import inverse_cdf
from sedd_cli.core.conditioning import Given
from sedd_cli.core.graphs import Jump
from sedd_cli.core.random import BASE, SAMPLER, Stream
from sedd_cli.core.registry import Registry
from sedd_cli.core.score import ScoreModel

SAMPLERS = Registry("sampler")

#: Where the grid ends and the final denoise starts (algorithm 2 of the published code).
T_END = 1e-5


def linear_grid(steps: int) -> Tensor:
    """t_k = linspace(1, 1e-5, steps + 1) in float64."""
    return torch.linspace(1.0, T_END, steps + 1, dtype=torch.float64)


@dataclass(frozen=True)
class Denoised:
    """A batch after `step` of `steps` steps: x [B, L], and the network evaluations of each sequence so far [B].

    fallbacks: steps at which unfinished sequences were looked at everywhere because a score in them had come near the
    bound on candidates.
    """

    step: int
    steps: int
    x: Tensor
    evaluations: Tensor
    fallbacks: int = 0


@dataclass(frozen=True)
class Sampler:
    """One way to step from noise level t to s < t. Fields are the recipe's options.

    thinning: look only at positions that could move while scores are near normalised; false: at all, always.
    """

    name: ClassVar[str]
    #: Whether `steps` means anything.
    stepped: ClassVar[bool] = True
    steps: int = 128
    thinning: bool = True

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"steps must be at least 1, found {self.steps}")

    def jump(self, model: ScoreModel, log_score: Tensor, x: Tensor, t: Tensor, s: Tensor) -> Jump:
        """The transition from t to s (each [R]) at positions x [R] with log_score [R, S]."""
        raise NotImplementedError

    def leave_bound(self, model: ScoreModel, total: Tensor, x: Tensor, t: Tensor, s: Tensor) -> Tensor:
        """At least `jump`'s leave, float64 [R], from total [R] ≥ Σ_y s_y over the tokens."""
        raise NotImplementedError

    def run(self, model: ScoreModel, given: Given, seed: int, index: Tensor) -> Iterator[Denoised]:
        """Denoise a batch (algorithms 2 and 3), yielding after every step.

        `index` [B] int64 numbers the sequences: a sequence depends on (seed, its number) alone, not on its batch. The
        last x is the sample; it holds no MASK and every given token.
        """
        grid, x, noise = _start(self, model, given, seed, index)
        evaluations, fallbacks = torch.zeros_like(index), 0
        trusted = torch.full_like(index, model.normalized, dtype=torch.bool)
        for k in range(self.steps + 1):
            u_leave, u_token = noise.uniforms(k, x.shape[1])
            free = model.graph.active(x) & ~given.where
            step = _Step(self, model, x, grid, k)
            # the first step looks at every position, to see whether the bound can be trusted at all
            fallbacks += int(self.thinning and 0 < k < self.steps and bool((free.any(1) & ~trusted).any()))
            looked_at, moved, held = step.take(free, u_leave, u_token, trusted)
            trusted = held & (trusted | (k == 0)) & (model.normalized or self.thinning)
            x = given(moved)
            evaluations = evaluations + looked_at
            yield Denoised(k + 1, self.steps + 1, x, evaluations, fallbacks)


def run_plain(model: ScoreModel, sampler: Sampler, given: Given, seed: int, index: Tensor) -> Iterator[Tensor]:
    """The slow, obvious form of `Sampler.run`: scores at every active position; yields x [B, L] after every step."""
    grid, x, noise = _start(sampler, model, given, seed, index)
    for k in range(sampler.steps + 1):
        u_leave, u_token = noise.uniforms(k, x.shape[1])
        step, moved = _Step(sampler, model, x, grid, k), x.clone()
        for rows, log_score in model.scored_rows(x, step.sigma.expand(len(x))):
            at = rows.batch, rows.position
            moved[at] = draw(step.jump(log_score, rows.x), rows.x, u_leave[at], u_token[at])
        x = given(moved)
        yield x


def _start(
    sampler: Sampler, model: ScoreModel, given: Given, seed: int, index: Tensor
) -> tuple[Tensor, Tensor, Stream]:
    length = given.where.shape[1]
    x = given(model.graph.sample_base(Stream(seed, BASE, index).uniforms(0, length)[0]))
    return linear_grid(sampler.steps).to(index.device), x, Stream(seed, SAMPLER, index)


@dataclass(frozen=True)
class _Step:
    """Step k of the grid, from t to s; the last one denoises."""

    sampler: Sampler
    model: ScoreModel
    x: Tensor
    grid: Tensor
    k: int

    @property
    def last(self) -> bool:
        return self.k == len(self.grid) - 1

    @property
    def sigma(self) -> Tensor:
        """A scalar."""
        return self.model.noise(self.grid[self.k])[0]

    def _times(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.grid[self.k].expand(x.shape), self.grid[self.k + 1].expand(x.shape)

    def jump(self, log_score: Tensor, x: Tensor) -> Jump:
        """The transition at positions x [R]."""
        if self.last:
            return self.model.graph.denoise(log_score, x, self.sigma.expand(x.shape))
        return self.sampler.jump(self.model, log_score, x, *self._times(x))

    def bound(self, total: Tensor, x: Tensor) -> Tensor:
        """At least the jump's leave, [R]."""
        if self.last:
            return self.model.graph.denoise_bound(total, x, self.sigma.expand(x.shape))
        return self.sampler.leave_bound(self.model, total, x, *self._times(x))

    def take(self, free: Tensor, u_leave: Tensor, u_token: Tensor, trusted: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(evaluations of each sequence [B], x after the step, where every Σ_y s_y seen is well below the bound [B]).

        In sequences not trusted [B] every free position is looked at, elsewhere those that the bound lets move.
        """
        model, x = self.model, self.x
        batch, position = free.nonzero(as_tuple=True)
        assumed = model.assumed_total(self.sigma)
        looked_at, held = torch.zeros_like(trusted, dtype=torch.int64), torch.ones_like(trusted)
        if not len(batch):
            return looked_at, x.clone(), held
        if assumed is None:
            sequences = free.any(1).nonzero()[:, 0]
            hidden = self._hidden(sequences)
            at = torch.searchsorted(sequences, batch), position
            total = model.totals(hidden[at], self.sigma, x[batch, position])
        else:
            total = assumed.expand(len(batch))
        chosen = u_leave[batch, position] < self.bound(total, x[batch, position])
        if assumed is not None:
            chosen |= ~trusted[batch]
            sequences = batch[chosen].unique()
            hidden = self._hidden(sequences)
        looked_at[sequences] = 1
        moved = x.clone()
        high = self._move(moved, sequences, hidden, batch[chosen], position[chosen], u_leave, u_token)
        if assumed is not None and not self.last and not model.normalized:
            # a score near the assumed bound may have company beyond it, among the positions not looked at
            held = high <= float(assumed) / MARGIN
            rest = ~chosen & ~held[batch]
            if bool(rest.any()):
                self._move(moved, sequences, hidden, batch[rest], position[rest], u_leave, u_token)
        return looked_at, moved, held

    def _hidden(self, sequences: Tensor) -> Tensor:
        """The trunk's output for some of the sequences."""
        if not len(sequences):
            return self.x.new_zeros(0)
        return self.model.hidden(self.x[sequences], self.sigma.expand(len(sequences)))

    def _move(
        self, moved: Tensor, sequences: Tensor, hidden: Tensor, batch: Tensor, position: Tensor, *u: Tensor
    ) -> Tensor:
        """Draw the transitions of some positions into `moved`; the largest Σ_y s_y seen in each sequence [B]."""
        x = self.x
        high = torch.zeros(len(x), dtype=torch.float64, device=x.device)
        for b, i in zip(batch.split(self.model.block), position.split(self.model.block), strict=True):
            if not len(b):
                continue
            here = x[b, i]
            log_score = self.model.log_score_of(
                self.model.net.head(hidden[torch.searchsorted(sequences, b), i]), self.sigma.expand(len(b)), here
            )
            high.scatter_reduce_(0, b, self.model.graph.total_of(log_score), "amax")
            moved[b, i] = draw(self.jump(log_score, here), here, *(v[b, i] for v in u))
        return high


#: The bound is trusted while no Σ_y s_y that was seen exceeds it over this.
MARGIN = 4.0


def draw(jump: Jump, x: Tensor, u_leave: Tensor, u_token: Tensor) -> Tensor:
    """Exact draw of one transition: first whether a position moves, then, only where it does, where to.

    x, u_leave, u_token [R]; returns int64 [R].
    """
    leaves = (u_leave < jump.leave).nonzero()[:, 0]
    return x.index_put((leaves,), inverse_cdf(jump.weights[leaves], u_token[leaves]))
