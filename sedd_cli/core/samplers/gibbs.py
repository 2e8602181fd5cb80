"""Gibbs sweeps: infilling with a graph without MASK that takes the given tokens as they are (Geman and Geman 1984)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from sedd_cli.core.categorical import inverse_cdf
from sedd_cli.core.conditioning import Conditioning
from sedd_cli.core.graphs import Graph
from sedd_cli.core.random import SAMPLER, Stream
from sedd_cli.core.samplers.base import SAMPLERS, Denoised, Sampler, distribution_option, largest_count
from sedd_cli.core.samplers.stepper import MOST_STEPS
from sedd_cli.core.samplers.tweedie import Tweedie
from sedd_cli.core.schedules import T_MIN
from sedd_cli.core.score import ScoreModel

#: Most sweeps of a sample.
MOST_SWEEPS = 1 << 16


@SAMPLERS.register
@dataclass(frozen=True)
class Gibbs(Sampler):
    """Tweedie steps, then sweeps that draw one free token after another from p(x_i|all others).

    Steps treat given tokens as noisy ones, so that their fillings are no draws from the conditional distribution for
    any number of steps. At the lowest noise that networks are trained at, the scores s_y of a position are the ratios
    of its conditional distribution, p_σ(x_i = y|all others) ∝ s_y, in which given tokens count as they are. The sweeps
    leave it unchanged, up to that noise, and approach it as their number grows.

    Attributes:
        steps: Tweedie steps before the sweeps.
        sweeps: each draws every free position once, from left to right: one network evaluation a position.
    """

    name: ClassVar[str] = "gibbs"
    steps: int = 128
    sweeps: int = 4
    grid: str = distribution_option("linear")

    def __post_init__(self) -> None:
        super().__post_init__()
        for key, most in (("steps", MOST_STEPS), ("sweeps", MOST_SWEEPS)):
            if not 1 <= getattr(self, key) <= most:
                raise ValueError(f"{key} must lie between 1 and {most:,}, found {getattr(self, key):,}")
        self.start  # noqa: B018  (checks the grid)

    @property
    def start(self) -> Tweedie:
        """The steps before the sweeps."""
        return Tweedie(temperature=self.temperature, top_p=self.top_p, steps=self.steps, grid=self.grid)

    def check(self, graph: Graph) -> None:
        if graph.mask is not None:
            raise ValueError(f"{self.name} needs a graph without MASK, {graph.name} has one")

    def distribution_options(self) -> dict[str, Any]:
        return super().distribution_options() | {"sweeps": self.sweeps}

    def evaluations_for(self, free: int) -> int:
        return self.start.evaluations + self.sweeps * free

    def run(self, model: ScoreModel, given: Conditioning, seed: int | Tensor, index: Tensor) -> Iterator[Denoised]:
        self.check(model.graph)
        count, longest = (~given.where).sum(1), largest_count(~given.where)
        steps = self.steps + 1 + self.sweeps * longest
        now = None
        for now in self.start.run(model, given, seed, index):
            yield Denoised(now.step, steps, now.x, now.evaluations, now.fallbacks)
        assert now is not None
        x, evaluations, noise = now.x, now.evaluations, Stream(seed, SAMPLER, index)
        places = given.where.int().sort(dim=1, stable=True).indices  # free positions first, from left to right
        for k in range(self.sweeps * longest):
            alive = (k < self.sweeps * count).nonzero()[:, 0]
            place = places[alive, k % count[alive]]
            u = noise.uniforms(self.start.evaluations + k, 1)[0][:, 0].to(x.device)
            p = self.conditional(model, x[alive], place)
            x = x.index_put((alive, place), inverse_cdf(self.shape(p), u[alive]))
            evaluations = evaluations.index_add(0, alive, torch.ones_like(alive))
            yield Denoised(self.steps + 2 + k, steps, x, evaluations, now.fallbacks)

    def conditional(self, model: ScoreModel, x: Tensor, place: Tensor) -> Tensor:
        """Unnormalised p(x_i|all others) at one position `place` [B] of each sequence x [B, L]: [B, N] float64."""
        rows = torch.arange(len(x), device=x.device)
        sigma = torch.full((len(x),), model.schedule.sigma(T_MIN), dtype=torch.float64, device=x.device)
        z = model.net.head(model.hidden_of_one(x, sigma, place))
        log_score = model.log_score_of(z, sigma, x[rows, place]).double()
        return (log_score - log_score.amax(-1, keepdim=True)).exp()
