"""Distances between what a sampler draws and the distribution it should draw from."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sedd_cli.core.conditioning import Conditioning
from sedd_cli.core.samplers import Sampler
from sedd_cli.core.score import ScoreModel
from sedd_cli.evaluation.exact.states import Distribution

#: Draws of a sampler whose distribution is not enumerated, and how many of them go together.
DRAWS, TOGETHER = 50_000, 10_000
#: How often the same number of exact draws is compared with the distribution they come from.
REPEATS = 8


def total_variation(q: Tensor, p: Tensor) -> float:
    """½ Σ |q − p|."""
    return float((q - p).abs().sum() / 2)


def divergence(q: Tensor, p: Tensor) -> float:
    """D_KL(q ‖ p) in nats; infinite where q has something that p lacks."""
    return float((torch.xlogy(q, q) - torch.xlogy(q, p)).sum())


@dataclass(frozen=True)
class Distance:
    """Total variation and D_KL(sampler ‖ model) in nats.

    Without `draws` both are those of the enumerated distributions, without sampling error. With it they are those of
    the frequencies of so many draws, which are too large: exact draws would give `tv_exact` ± `tv_error` and
    `kl_exact`, mean and standard deviation of REPEATS sets of as many draws from the model's own distribution.
    """

    tv: float
    kl: float
    draws: int | None = None
    tv_exact: float | None = None
    tv_error: float | None = None
    kl_exact: float | None = None


def enumerated(distribution: Distribution, p: Tensor) -> Distance:
    """Of a distribution [S^L] from another."""
    return Distance(total_variation(distribution.p, p), divergence(distribution.p, p))


def drawn(distribution: Distribution, p: Tensor, draws: int = DRAWS, seed: int = 0) -> Distance:
    """Of the frequencies of `draws` draws [S^L] from a distribution."""
    generator = torch.Generator().manual_seed(seed)
    sets = []
    for _ in range(REPEATS):
        exact = p.cumsum(0)
        u = torch.rand(draws, dtype=torch.float64, generator=generator) * exact[-1]
        found = torch.searchsorted(exact, u, right=True).clamp(max=len(p) - 1)
        frequencies = torch.bincount(found, minlength=len(p)).double() / draws
        sets.append((total_variation(frequencies, p), divergence(frequencies, p)))
    tv, kl = torch.tensor(sets, dtype=torch.float64).T
    return Distance(
        total_variation(distribution.p, p),
        divergence(distribution.p, p),
        draws,
        float(tv.mean()),
        float(tv.std()),
        float(kl.mean()),
    )


@torch.no_grad()
def drawn_distribution(
    model: ScoreModel,
    sampler: Sampler,
    length: int,
    draws: int = DRAWS,
    seed: int = 0,
    given: dict[int, int] | None = None,
) -> Distribution:
    """The frequencies of draws of a sampler with tokens given at some positions, and their mean evaluations."""
    given = given or {}
    place = model.graph.states ** torch.arange(length - 1, -1, -1)
    counts, evaluations = torch.zeros(model.graph.states**length, dtype=torch.float64), 0.0
    for start in range(0, draws, TOGETHER):
        index = torch.arange(start, min(start + TOGETHER, draws))
        clamp = Conditioning.at(list(given), list(given.values()), len(index), length)
        *_, last = sampler.run(model, clamp, seed, index)
        counts += torch.bincount((last.x * place).sum(1), minlength=len(counts))
        evaluations += float(last.evaluations.double().sum())
    return Distribution(counts / draws, evaluations / draws)
