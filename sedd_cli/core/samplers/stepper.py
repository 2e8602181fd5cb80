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
from typing import Any, ClassVar

import torch
from torch import Tensor

from sedd_cli.core.conditioning import Conditioning
from sedd_cli.core.fast import Kernels
from sedd_cli.core.fast.thinning import remasked, thinned_move
from sedd_cli.core.graphs import Graph, Transition
from sedd_cli.core.random import BASE, SAMPLER, Stream
from sedd_cli.core.samplers.base import Denoised, Sampler, distribution_option
from sedd_cli.core.samplers.corrector import corrector_length, corrector_step
from sedd_cli.core.samplers.denoise import LAST_STEPS
from sedd_cli.core.samplers.draws import DRAWS, Draw
from sedd_cli.core.samplers.grids import GRIDS
from sedd_cli.core.score import ScoreModel
from sedd_cli.errors import not_one_of

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
            by tweedie as in the published code, which is the same on the absorbing graph, or greedy.
    """

    #: Whether its steps turn tokens into MASK again, all with one probability.
    remasks: ClassVar[bool] = False
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
                raise ValueError(not_one_of(key, known, getattr(self, key)))

    def check(self, graph: Graph) -> None:
        super().check(graph)
        if graph.only_masks and (self.remasks or self.correctors):
            graph.check_masking(self.name if self.remasks else "a corrector")

    @abstractmethod
    def transition(self, model: ScoreModel, log_score: Tensor, x: Tensor, t: Tensor, s: Tensor) -> Transition:
        """The transition from t to s (each [R]) at active positions x [R] with log_score [R, S]."""

    def coefficient(self, model: ScoreModel, t: Tensor, s: Tensor) -> Tensor:
        """The number by which `fast_transition` and `move_bound` get a step from t to s, of their shape."""
        return torch.zeros_like(t)

    def fast_transition(self, kernels: Kernels[Any], step: GridStep, log_score: Tensor, x: Tensor) -> Transition:
        """`transition` by the graph's kernels, where there is such a form.

        This and `move_bound` are not used where a class below the one that defines them overrides `transition`.
        """
        return step.transition(log_score, x)

    def move_bound(self, kernels: Kernels[Any], step: GridStep, total: Tensor, x: Tensor) -> Tensor:
        """At least the probability of moving, float64, from total ≥ Σ_y s_y over the tokens, of the shape of x."""
        return torch.ones_like(total, dtype=torch.float64)

    def follows_transition(self, name: str) -> bool:
        """Whether the method `name` belongs to the sampler's `transition`, which no class below it overrides."""
        lowest = next(cls for cls in type(self).__mro__ if name in vars(cls) or "transition" in vars(cls))
        return name in vars(lowest)

    def remask_probability(self, model: ScoreModel, t: Tensor, s: Tensor) -> Tensor:
        """The probability that a token turns into MASK between t and s, of their shape."""
        return torch.zeros_like(t)

    def times(self, model: ScoreModel) -> Tensor:
        """The times between which the steps lie, float64 [steps + 1]."""
        return GRIDS[self.grid](model.schedule, self.steps)

    @property
    def evaluations(self) -> int:
        """Moves of all steps of the grid, which is the most network evaluations of a sequence."""
        return self.steps * (1 + self.correctors) + 1

    def evaluations_for(self, free: int) -> int:
        return self.evaluations

    def moves(self, model: ScoreModel, device: torch.device) -> Iterator[list[Move]]:
        """What each step of the grid consists of. The numbers of all steps are computed at once, before the first."""
        grid = self.times(model).to(device)
        sigma, dsigma = model.schedule(grid)
        t, s = grid[:-1], grid[1:]
        coefficients, remask = self.coefficient(model, t, s), self.remask_probability(model, t, s).tolist()
        lengths = corrector_length(sigma[1:], (t - s) * dsigma[1:]) if self.correctors else t.new_zeros(self.steps)
        for k, back in enumerate(lengths.tolist()):
            step = GridStep(self, model, sigma[k], remask[k], t[k], s[k], coefficients[k])
            correction = Correction(self, model, sigma[k + 1], back, lengths[k])
            yield [step, *[correction] * self.correctors]
        yield [Denoise(self, model, sigma[-1], 0.0)]

    def run(self, model: ScoreModel, given: Conditioning, seed: int | Tensor, index: Tensor) -> Iterator[Denoised]:
        x, noise = _start(self, model, given, seed, index)
        evaluations, fallbacks, first = torch.zeros_like(index), 0, True
        mean, free = model.parametrization != "score", ~given.where
        all_skip = mean and self.thinning  # known without waiting for a GPU
        skips = torch.full_like(index, all_skip, dtype=torch.bool)  # sequences in which not every position is scored
        uniforms = noise.ahead(x.shape[1], self.evaluations)
        for k, moves in enumerate(self.moves(model, index.device)):
            fell_back = False
            for move in moves:
                u = next(uniforms)
                if model.kernels is None:
                    evaluations = evaluations + (model.graph.active(x) & free).any(1)
                    x = given(_move_scoring_all(move, x, free, u))
                    continue
                # the first move scores every active position; later ones skip some while scores stay small
                if self.thinning and move.can_skip and 0 < k < self.steps and not all_skip:
                    fell_back |= bool(((model.graph.active(x) & free).any(1) & ~skips).any())
                scored, x, small, all_small = thinned_move(move, x, free, u, skips)
                if self.thinning and not (all_small and all_skip):
                    skips, all_skip = small & (skips | first), all_small and (first or all_skip)
                evaluations, first = evaluations + scored, False
            fallbacks += fell_back
            yield Denoised(k + 1, self.steps + 1, x, evaluations, fallbacks)


@dataclass(frozen=True)
class Move(ABC):
    """One transition of a whole batch, by scores under total noise sigma, a float64 scalar.

    remask_probability: that of a position that is not active to turn into MASK.
    """

    sampler: Stepper
    model: ScoreModel
    sigma: Tensor
    remask_probability: float

    @property
    def draw(self) -> Draw:
        """How transitions are drawn."""
        return DRAWS[self.sampler.draws]

    @property
    def bounded(self) -> bool:
        """Whether some active positions can be known to stay from a bound on scores alone."""
        return True

    @property
    def has_bound(self) -> bool:
        """Whether `move_bound` is less than 1 anywhere."""
        return True

    @property
    def can_skip(self) -> bool:
        """Whether active positions are left out where they are known to stay."""
        return self.bounded and self.has_bound and self.draw.moves_first

    @abstractmethod
    def transition(self, log_score: Tensor, x: Tensor) -> Transition:
        """The transition of active positions x [R] with log_score [R, S], from its equation."""

    @abstractmethod
    def fast_transition(self, kernels: Kernels[Any], log_score: Tensor, x: Tensor) -> Transition:
        """The same by the graph's kernels."""

    @abstractmethod
    def move_bound(self, kernels: Kernels[Any], total: Tensor, x: Tensor) -> Tensor:
        """At least the probability of moving, from total ≥ Σ_y s_y over the tokens, of the shape of x."""


@dataclass(frozen=True)
class GridStep(Move):
    """From t to s < t, float64 scalars, by the sampler's own step; coefficient: as `Stepper.coefficient` gives it."""

    t: Tensor
    s: Tensor
    coefficient: Tensor

    @property
    def has_bound(self) -> bool:
        # without a bound of its own, a sampler's step scores every active position
        return self.sampler.follows_transition("move_bound")

    def transition(self, log_score: Tensor, x: Tensor) -> Transition:
        return self.sampler.transition(self.model, log_score, x, self.t.expand(x.shape), self.s.expand(x.shape))

    def fast_transition(self, kernels: Kernels[Any], log_score: Tensor, x: Tensor) -> Transition:
        if not self.sampler.follows_transition("fast_transition"):
            return self.transition(log_score, x)
        return self.sampler.fast_transition(kernels, self, log_score, x)

    def move_bound(self, kernels: Kernels[Any], total: Tensor, x: Tensor) -> Tensor:
        if not self.has_bound:
            return torch.ones_like(total, dtype=torch.float64)
        return self.sampler.move_bound(kernels, self, total, x)


@dataclass(frozen=True)
class Correction(Move):
    """A corrector step of a length h, a scalar, which is also the probability of turning into MASK."""

    length: Tensor

    def transition(self, log_score: Tensor, x: Tensor) -> Transition:
        graph = self.model.graph.between(self.sigma, self.sigma)
        return corrector_step(graph, log_score, x, self.length.expand(x.shape))

    def fast_transition(self, kernels: Kernels[Any], log_score: Tensor, x: Tensor) -> Transition:
        return kernels.correct(log_score, x, self.length.expand(x.shape))

    def move_bound(self, kernels: Kernels[Any], total: Tensor, x: Tensor) -> Tensor:
        return kernels.correct_bound(total, x, self.length.expand(x.shape))


@dataclass(frozen=True)
class Denoise(Move):
    """The last move, to no noise."""

    @property
    def bounded(self) -> bool:
        return False  # every MASK is unmasked, whatever its score

    def transition(self, log_score: Tensor, x: Tensor) -> Transition:
        return LAST_STEPS[self.sampler.last_step](self.model.graph, log_score, x, self.sigma.expand(x.shape))

    def fast_transition(self, kernels: Kernels[Any], log_score: Tensor, x: Tensor) -> Transition:
        fast = {"bayes": kernels.decode, "tweedie": kernels.denoise}.get(self.sampler.last_step)
        return fast(log_score, x, self.sigma.expand(x.shape)) if fast else self.transition(log_score, x)

    def move_bound(self, kernels: Kernels[Any], total: Tensor, x: Tensor) -> Tensor:
        bound = {"bayes": kernels.decode_bound, "tweedie": kernels.denoise_bound}.get(self.sampler.last_step)
        return bound(total, x, self.sigma.expand(x.shape)) if bound else torch.ones_like(total, dtype=torch.float64)


def run_reference(
    model: ScoreModel, sampler: Stepper, given: Conditioning, seed: int, index: Tensor
) -> Iterator[Tensor]:
    """`Stepper.run` without kernels: scores at every active position; yields x [B, L] after every step."""
    x, noise = _start(sampler, model, given, seed, index)
    number = 0
    for moves in sampler.moves(model, index.device):
        for move in moves:
            x = given(_move_scoring_all(move, x, ~given.where, noise.uniforms(number, x.shape[1])))
            number += 1
        yield x


def _move_scoring_all(move: Move, x: Tensor, free: Tensor, u: tuple[Tensor, Tensor]) -> Tensor:
    """x [B, L] after a move of all positions, by uniforms for moving and for the token, [B, L] each."""
    moved = remasked(move, x, free, u[0])
    scored = move.model.graph.active(x) & free
    alive = scored.any(1).nonzero()[:, 0]
    if not len(alive):
        return moved
    for rows, log_score in move.model.scored_rows(x[alive], move.sigma.expand(len(alive)), scored[alive]):
        at = alive[rows.batch], rows.position
        transition = move.transition(log_score, rows.x)
        moved[at] = move.draw(transition, rows.x, u[0][at], u[1][at], move.sampler.shape)
    return moved


def _start(
    sampler: Stepper, model: ScoreModel, given: Conditioning, seed: int | Tensor, index: Tensor
) -> tuple[Tensor, Stream]:
    sampler.check(model.graph)
    length = given.where.shape[1]
    x = given(model.graph.sample_base(Stream(seed, BASE, index).uniforms(0, length)[0]))
    return x, Stream(seed, SAMPLER, index)
