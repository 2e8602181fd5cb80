"""The reverse process: a time grid, a stepper, and exact draws."""

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
class Sampler:
    """One way to step from noise level t to s < t. Fields are the recipe's options."""

    name: ClassVar[str]
    steps: int = 128

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"steps must be at least 1, found {self.steps}")

    def jump(self, model: ScoreModel, log_score: Tensor, x: Tensor, t: Tensor, s: Tensor) -> Jump:
        """The transition from t to s (each [R]) at positions x [R] with log_score [R, S]."""
        raise NotImplementedError


def sample(model: ScoreModel, sampler: Sampler, given: Given, seed: int, index: Tensor) -> Iterator[tuple[int, Tensor]]:
    """Denoise a batch (algorithms 2 and 3), yielding (network evaluations so far, x [B, L]) after every step.

    `index` [B] int64 numbers the sequences: a sequence depends on (seed, its number) alone, not on its
    batch. The last yield is the sample; it holds no MASK and every given token. Evaluations: steps + 1.
    """
    device, length = index.device, given.where.shape[1]
    grid = linear_grid(sampler.steps).to(device)
    x = given(model.graph.sample_base(Stream(seed, BASE, index).uniforms(0, length)[0]))
    noise = Stream(seed, SAMPLER, index)
    for k in range(sampler.steps + 1):
        t = grid[k].expand(len(x))
        last = k == sampler.steps
        sigma = model.noise(t)[0]
        u_leave, u_token = noise.uniforms(k, length)
        moved = x.clone()
        for rows, log_score in model.scored_rows(x, sigma):
            at = rows.batch, rows.position
            if last:
                jump = model.graph.denoise(log_score, rows.x, rows.sigma)
            else:
                jump = sampler.jump(model, log_score, rows.x, t[rows.batch], grid[k + 1].expand(len(rows.x)))
            moved[at] = draw(jump, rows.x, u_leave[at], u_token[at])
        x = given(moved)
        yield k + 1, x


def draw(jump: Jump, x: Tensor, u_leave: Tensor, u_token: Tensor) -> Tensor:
    """Exact draw of one transition: first whether a position moves, then, only where it does, where to.

    x, u_leave, u_token [R]; returns int64 [R].
    """
    leaves = (u_leave < jump.leave).nonzero()[:, 0]
    return x.index_put((leaves,), inverse_cdf(jump.weights[leaves], u_token[leaves]))
