"""Samplers on a grid of times, with uniforms that do not depend on the scores.

Two forms of the same process. For equal uniforms they are equal up to rounding, where the assumption of thinning holds.
`run_reference` scores every active position of every sequence in every step, and takes each step from its equation.
`Stepper.run` uses the graph's kernels, where it has any: closed forms of the steps, and bounds by which most positions
need no score (`core.fast.thinning`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from sedd_cli.core.conditioning import Conditioning
from sedd_cli.core.fast import Kernels
from sedd_cli.core.fast.thinning import remasked, thinned_move
from sedd_cli.core.graphs import Transition
from sedd_cli.core.random import BASE, SAMPLER, Stream
from sedd_cli.core.samplers.base import Denoised, Sampler, distribution_option
from sedd_cli.core.samplers.corrector import corrector_length, corrector_step
from sedd_cli.core.samplers.denoise import LAST_STEPS, decode_step, denoise_step
from sedd_cli.core.samplers.draws import DRAWS, Draw
from sedd_cli.core.samplers.grids import GRIDS
from sedd_cli.core.score import ScoreModel

#: Largest numbers of steps, whose grid is held in memory, and of correctors a step.
MOST_STEPS, MOST_CORRECTORS = 1 << 20, 1 << 10


@dataclass(frozen=True)
class Stepper(Sampler):
    """One way to step from time t to s < t, and the grid of times.

    Attributes:
        steps: steps of the grid; a last step removes what noise is left.
        thinning: score only positions that could move, while scores are near normalised; false: score all, always.
        grid: where the steps lie (`grids`).
        correctors: corrector steps after each step (`corrector`).
        draws: float64, or float32-gumbel as in the published code.
        last_step: how the noise that is left after the grid is removed, by Bayes' rule as in the likelihood bound, or
            by tweedie as in the published code; the same on the absorbing graph.
    """

    steps: int = 128
    thinning: bool = True
    grid: str = distribution_option("linear")
    correctors: int = distribution_option(0)
    draws: str = distribution_option("float64")
    last_step: str = distribution_option("bayes")

    def __post_init__(self) -> None:
        super().__post_init__()
        for key, least, most in (("steps", 1, MOST_STEPS), ("correctors", 0, MOST_CORRECTORS)):
            value = getattr(self, key)
            if value < least:
                raise ValueError(f"{key} must be at least {least}, found {value}")
            if value > most:
                raise ValueError(f"{key} must be at most {most:,}, found {value:,}")
        for key, known in (("grid", GRIDS), ("draws", DRAWS), ("last_step", LAST_STEPS)):
            if getattr(self, key) not in known:
                raise ValueError(f"{key} must be one of {', '.join(known)}, found {getattr(self, key)!r}")

    @abstractmethod
    def transition(self, model: ScoreModel, log_score: Tensor, x: Tensor, t: Tensor, s: Tensor) -> Transition:
        """The transition from t to s (each [R]) at active positions x [R] with log_score [R, S]."""

    def fast_transition(
        self, kernels: Kernels[Any], model: ScoreModel, log_score: Tensor, x: Tensor, t: Tensor, s: Tensor
    ) -> Transition:
        """`transition` by the graph's kernels, where there is such a form."""
        return self.transition(model, log_score, x, t, s)

    def move_bound(
        self, kernels: Kernels[Any], model: ScoreModel, total: Tensor, x: Tensor, t: Tensor, s: Tensor
    ) -> Tensor:
        """At least the probability of moving, float64 [R], from total [R] ≥ Σ_y s_y over the tokens."""
        return torch.ones_like(total, dtype=torch.float64)

    def remask_probability(self, model: ScoreModel, t: Tensor, s: Tensor) -> Tensor:
        """The probability that a token turns into MASK between t and s, of their shape."""
        return torch.zeros_like(t)

    def moves(self, model: ScoreModel, grid: Tensor, k: int) -> list[Move]:
        """What step k of the grid consists of."""
        t = grid[k]
        if k == self.steps:
            return [Denoise(self, model, t)]
        s = grid[k + 1]
        correction = Correction(self, model, s, (t - s) * model.schedule(s)[1])
        return [GridStep(self, model, t, s), *[correction] * self.correctors]

    def run(self, model: ScoreModel, given: Conditioning, seed: int | Tensor, index: Tensor) -> Iterator[Denoised]:
        grid, x, noise = _start(self, model, given, seed, index)
        evaluations, fallbacks, number = torch.zeros_like(index), 0, 0
        mean = model.parametrization != "score"
        skips = torch.full_like(index, mean, dtype=torch.bool)  # sequences in which not every position is scored
        for k in range(self.steps + 1):
            fell_back = False
            for move in self.moves(model, grid, k):
                u, free = noise.uniforms(number, x.shape[1]), ~given.where
                if model.kernels is None:
                    evaluations = evaluations + (model.graph.active(x) & free).any(1)
                    x = given(_move_scoring_all(move, x, free, u))
                else:
                    # the first move scores every active position; later ones skip some while scores stay small
                    scored_everywhere = (model.graph.active(x) & free).any(1) & ~skips
                    fell_back |= self.thinning and 0 < k < self.steps and bool(scored_everywhere.any())
                    scored, x, small = thinned_move(move, x, free, u, skips)
                    skips = small & (skips | (number == 0)) & (mean or self.thinning)
                    evaluations = evaluations + scored
                number += 1
            fallbacks += fell_back
            yield Denoised(k + 1, self.steps + 1, x, evaluations, fallbacks)


@dataclass(frozen=True)
class Move(ABC):
    """One transition of a whole batch, by scores at time t, a float64 scalar."""

    sampler: Stepper
    model: ScoreModel
    t: Tensor

    @cached_property
    def sigma(self) -> Tensor:
        """Total noise at t, a scalar."""
        return self.model.schedule(self.t)[0]

    @property
    def draw(self) -> Draw:
        """How transitions are drawn."""
        return DRAWS[self.sampler.draws]

    @property
    def bounded(self) -> bool:
        """Whether some active positions can be known to stay from a bound on scores alone."""
        return True

    @property
    def remask_probability(self) -> float:
        """The probability that a position that is not active turns into MASK."""
        return 0.0

    @abstractmethod
    def transition(self, log_score: Tensor, x: Tensor) -> Transition:
        """The transition of active positions x [R] with log_score [R, S], from its equation."""

    @abstractmethod
    def fast_transition(self, kernels: Kernels[Any], log_score: Tensor, x: Tensor) -> Transition:
        """The same by the graph's kernels."""

    @abstractmethod
    def move_bound(self, kernels: Kernels[Any], total: Tensor, x: Tensor) -> Tensor:
        """At least the probability of moving, [R], from total [R] ≥ Σ_y s_y over the tokens."""


@dataclass(frozen=True)
class GridStep(Move):
    """From t to s < t, by the sampler's own step."""

    s: Tensor

    @property
    def remask_probability(self) -> float:
        return float(self.sampler.remask_probability(self.model, self.t, self.s))

    def transition(self, log_score: Tensor, x: Tensor) -> Transition:
        return self.sampler.transition(self.model, log_score, x, self.t.expand(x.shape), self.s.expand(x.shape))

    def fast_transition(self, kernels: Kernels[Any], log_score: Tensor, x: Tensor) -> Transition:
        t, s = self.t.expand(x.shape), self.s.expand(x.shape)
        return self.sampler.fast_transition(kernels, self.model, log_score, x, t, s)

    def move_bound(self, kernels: Kernels[Any], total: Tensor, x: Tensor) -> Tensor:
        t, s = self.t.expand(x.shape), self.s.expand(x.shape)
        return self.sampler.move_bound(kernels, self.model, total, x, t, s)


@dataclass(frozen=True)
class Correction(Move):
    """A corrector step at t, of a length near delta."""

    delta: Tensor

    @cached_property
    def length(self) -> Tensor:
        """The step's length h, a scalar."""
        return corrector_length(self.sigma, self.delta)

    @property
    def remask_probability(self) -> float:
        return float(self.length)

    def transition(self, log_score: Tensor, x: Tensor) -> Transition:
        graph = self.model.graph.between(self.sigma, self.sigma)
        return corrector_step(graph, log_score, x, self.length.expand(x.shape))

    def fast_transition(self, kernels: Kernels[Any], log_score: Tensor, x: Tensor) -> Transition:
        return kernels.correct(log_score, x, self.length.expand(x.shape))

    def move_bound(self, kernels: Kernels[Any], total: Tensor, x: Tensor) -> Tensor:
        return kernels.correct_bound(total, x, self.length.expand(x.shape))


@dataclass(frozen=True)
class Denoise(Move):
    """The last move, from t to no noise."""

    @property
    def by_tweedie(self) -> bool:
        """Whether it is the Tweedie step of the published code."""
        return self.sampler.last_step == "tweedie"

    @property
    def bounded(self) -> bool:
        return False  # every MASK is unmasked, whatever its score

    def transition(self, log_score: Tensor, x: Tensor) -> Transition:
        step = denoise_step if self.by_tweedie else decode_step
        return step(self.model.graph, log_score, x, self.sigma.expand(x.shape))

    def fast_transition(self, kernels: Kernels[Any], log_score: Tensor, x: Tensor) -> Transition:
        step = kernels.denoise if self.by_tweedie else kernels.decode
        return step(log_score, x, self.sigma.expand(x.shape))

    def move_bound(self, kernels: Kernels[Any], total: Tensor, x: Tensor) -> Tensor:
        bound = kernels.denoise_bound if self.by_tweedie else kernels.decode_bound
        return bound(total, x, self.sigma.expand(x.shape))


def run_reference(
    model: ScoreModel, sampler: Stepper, given: Conditioning, seed: int, index: Tensor
) -> Iterator[Tensor]:
    """`Stepper.run` without kernels: scores at every active position; yields x [B, L] after every step."""
    grid, x, noise = _start(sampler, model, given, seed, index)
    number = 0
    for k in range(sampler.steps + 1):
        for move in sampler.moves(model, grid, k):
            x = given(_move_scoring_all(move, x, ~given.where, noise.uniforms(number, x.shape[1])))
            number += 1
        yield x


def _move_scoring_all(move: Move, x: Tensor, free: Tensor, u: tuple[Tensor, Tensor]) -> Tensor:
    """x [B, L] after a move of all positions, by uniforms for moving and for the token, [B, L] each."""
    moved = remasked(move, x, free, u[0])
    for rows, log_score in move.model.scored_rows(x, move.sigma.expand(len(x))):
        at = rows.batch, rows.position
        transition = move.transition(log_score, rows.x)
        moved[at] = move.draw(transition, rows.x, u[0][at], u[1][at], move.sampler.shape)
    return moved


def _start(
    sampler: Stepper, model: ScoreModel, given: Conditioning, seed: int | Tensor, index: Tensor
) -> tuple[Tensor, Tensor, Stream]:
    sampler.check(model.graph)
    length = given.where.shape[1]
    x = given(model.graph.sample_base(Stream(seed, BASE, index).uniforms(0, length)[0]))
    grid = GRIDS[sampler.grid](model.schedule, sampler.steps)
    return grid.to(index.device), x, Stream(seed, SAMPLER, index)
