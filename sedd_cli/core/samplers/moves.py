"""The transitions that a run of a stepper is made of: steps from t to s, corrections at s, and the last denoise."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from sedd_cli.core.graphs import Transition
from sedd_cli.core.score import ScoreModel

if TYPE_CHECKING:
    from sedd_cli.core.samplers.stepper import Stepper


@dataclass(frozen=True)
class Move(ABC):
    """One transition of a whole batch, whose law asks for scores at `t`, a float64 scalar."""

    sampler: Stepper
    model: ScoreModel
    t: Tensor

    @cached_property
    def sigma(self) -> Tensor:
        """The total noise at which scores are asked for, a scalar."""
        return self.model.schedule(self.t)[0]

    @property
    def bounded(self) -> bool:
        """Whether an assumed bound on scores tells which active positions stay."""
        return True

    @property
    def renoise(self) -> float:
        """The chance that a position that is not active (no MASK, in a graph that has one) turns back into MASK."""
        return 0.0

    @abstractmethod
    def jump(self, log_score: Tensor, x: Tensor) -> Transition:
        """The law of active positions x [R] with log_score [R, S]."""

    @abstractmethod
    def bound(self, total: Tensor, x: Tensor) -> Tensor:
        """At least the jump's leave, [R], from total [R] ≥ Σ_y s_y over the tokens."""


@dataclass(frozen=True)
class GridStep(Move):
    """From t to s < t, as the sampler steps."""

    s: Tensor

    @property
    def renoise(self) -> float:
        return float(self.sampler.renoise(self.model, self.t, self.s))

    def jump(self, log_score: Tensor, x: Tensor) -> Transition:
        return self.sampler.jump(self.model, log_score, x, self.t.expand(x.shape), self.s.expand(x.shape))

    def bound(self, total: Tensor, x: Tensor) -> Tensor:
        return self.sampler.move_bound(self.model, total, x, self.t.expand(x.shape), self.s.expand(x.shape))


@dataclass(frozen=True)
class Correction(Move):
    """A move that leaves p_t as it is: forward and reverse rates at once (Campbell et al. 2022, section 4.4).

    A leap of length h: from x to y ≠ x with probability h·(Q(y,x) + Q(x,y)·s_y). Forward and reverse flux are equal
    between any two states that differ in one position, so with exact scores p_t stays, up to positions that move
    together, for any h that lets no position leave with more than certainty. h = ½λ(1 − e^{−2δ/λ}), λ = 1 − e^{−σ̄}
    the chance that a token has moved, comes near the step's own δ = σ̄′·Δt where that is small, and stays below ½λ,
    where none does.
    """

    delta: Tensor

    @cached_property
    def leap(self) -> Tensor:
        """h, a scalar."""
        most = -torch.expm1(-self.sigma) / 2
        return -most * torch.expm1(-self.delta / most)

    @property
    def renoise(self) -> float:
        return float(self.leap)

    def jump(self, log_score: Tensor, x: Tensor) -> Transition:
        return self.model.graph.correct(log_score, x, self.leap.expand(x.shape))

    def bound(self, total: Tensor, x: Tensor) -> Tensor:
        return self.model.graph.correct_bound(total, x, self.leap.expand(x.shape))


@dataclass(frozen=True)
class Denoise(Move):
    """The last one, from t to no noise at all; MASK is forbidden."""

    @property
    def bounded(self) -> bool:
        return False  # whatever the score, each MASK falls: there is nothing to be missed

    def jump(self, log_score: Tensor, x: Tensor) -> Transition:
        return self.model.graph.denoise(log_score, x, self.sigma.expand(x.shape))

    def bound(self, total: Tensor, x: Tensor) -> Tensor:
        return self.model.graph.denoise_bound(total, x, self.sigma.expand(x.shape))
