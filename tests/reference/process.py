"""The forward process of the graphs by name: rate matrices, schedules, corruptions."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

from sedd_cli.testing.reference import Score, transition

#: t → (sigma, dsigma/dt).
Schedule = Callable[[float], tuple[float, float]]
#: The graphs whose rates and p_base are written here.
RATES = ("absorbing", "uniform", "hybrid")


def rate_matrix(graph: str, N: int) -> torch.Tensor:
    """Q^tok of equations 15 and 16, [S, S] float64. The uniform matrix is scaled by 1/N."""
    if graph == "absorbing":
        Q = torch.zeros(N + 1, N + 1, dtype=torch.float64)
        for token in range(N):
            Q[token, token], Q[N, token] = -1.0, 1.0
        return Q
    if graph == "uniform":
        return torch.ones(N, N, dtype=torch.float64) / N - torch.eye(N, dtype=torch.float64)
    if graph == "hybrid":
        Q = rate_matrix("absorbing", N)
        Q[:N, :N] += 0.2 * rate_matrix("uniform", N)
        return Q
    raise ValueError(f"no dense rate matrix is written for graph {graph!r} in tests/reference/process.py")


def base(graph: str, N: int) -> torch.Tensor:
    """p_base of one position, [S]."""
    if graph in ("absorbing", "hybrid"):
        return torch.tensor([0.0] * N + [1.0], dtype=torch.float64)
    if graph == "uniform":
        return torch.full((N,), 1.0 / N, dtype=torch.float64)
    raise ValueError(f"no p_base is written for graph {graph!r} in tests/reference/process.py")


def corruption(Q: torch.Tensor, sigma: float, pinned: tuple[float, int] | None = None) -> torch.Tensor:
    """p(x | x0), [S, S], column x0; with pinned = (sigma_1, y) also given that y stands there at sigma_1."""
    P = transition(Q, sigma)
    if pinned is None:
        return P
    later = transition(Q, pinned[0] - sigma)[pinned[1]]  # p(y | x)
    joint = later[:, None] * P
    return joint / joint.sum(0).clamp(min=1e-300)


def loglinear(t: float, eps: float = 1e-3) -> tuple[float, float]:
    """(sigma, dsigma) with lambda = (1 - eps) t."""
    moved = (1 - eps) * t
    return -math.log(1 - moved), (1 - eps) / (1 - moved)


def geometric(t: float, sigma_min: float, sigma_max: float) -> tuple[float, float]:
    """(sigma, dsigma) with sigma = sigma_min^(1-t) sigma_max^t."""
    sigma = sigma_min ** (1 - t) * sigma_max**t
    return sigma, sigma * (math.log(sigma_max) - math.log(sigma_min))


def nll(p0: torch.Tensor, x0: torch.Tensor) -> torch.Tensor:
    """-log p0(x0) in nats per sequence, [M]."""
    return torch.stack([-p0[tuple(row)].log() for row in x0])


def clamped_score(score: Score, low: float, high: float, scaled: bool) -> Score:
    """The score of a network whose sigma input is clamped to [low, high].

    scaled: the factor 1/expm1(sigma) of the score is applied outside the network and is not clamped.
    """

    def clamped(x: torch.Tensor, sigma: float) -> torch.Tensor:
        level = min(max(sigma, low), high)
        factor = math.expm1(level) / math.expm1(sigma) if scaled else 1.0
        return (factor * score(x, level)).scatter(-1, x[..., None], 1.0)

    return clamped
