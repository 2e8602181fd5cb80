"""Score entropy: one position, one sequence, its expectation and its integral over the noise levels."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch

from reference.process import corruption
from sedd_cli.testing.reference import Score, diffuse, sequences, transition


def K(a: float) -> float:
    """K(a) = a (log a - 1), with K(0) = 0."""
    return a * (math.log(a) - 1) if a > 0 else 0.0


def score_entropy(Q: torch.Tensor, log_score: Sequence[float], sigma: float, x: int, x0: int) -> float:
    """Theorem 3.6 at one position: sum over y != x of Q(x, y) (s_y - r_y log s_y + K(r_y)), r_y = p(y|x0)/p(x|x0)."""
    return _score_entropy(Q, transition(Q, sigma), log_score, x, x0)


def _score_entropy(Q: torch.Tensor, P: torch.Tensor, log_score: Sequence[float], x: int, x0: int) -> float:
    total = 0.0
    for y in range(len(Q)):
        rate = float(Q[x, y])
        if y == x or rate == 0:
            continue
        r = float(P[y, x0]) / float(P[x, x0])
        total += rate * (math.exp(log_score[y]) - r * float(log_score[y]) + K(r))
    return total


def textbook_score_entropy(graph: str, N: int, log_score: torch.Tensor, sigma: float, x: int, x0: int) -> float:
    """Theorem 3.6 vectorised over states, for vocabularies too large for a dense Q; in the dtype of log_score."""
    dtype, S = log_score.dtype, len(log_score)
    keep = torch.tensor(sigma, dtype=dtype).neg().exp()
    p, rate = torch.zeros(S, dtype=dtype), torch.zeros(S, dtype=dtype)
    if graph == "absorbing":
        p[x0], p[N] = keep, 1 - keep
        rate[:N] = 1.0 if x == N else 0.0
    elif graph == "uniform":
        p[:] = (1 - keep) / N
        p[x0] += keep
        rate[:] = 1.0 / N
    rate[x] = 0.0
    r = p / p[x]
    return float((rate * (log_score.exp() - r * log_score + torch.special.xlogy(r, r) - r)).sum())


def sequence_loss(score: Score, Q: torch.Tensor, sigma: float, x: torch.Tensor, x0: torch.Tensor) -> float:
    """The score entropy of one noisy sequence, summed over its positions. x, x0: [L]."""
    log_s = score(x[None], sigma)[0].log()
    return sum(score_entropy(Q, log_s[i].tolist(), sigma, int(x[i]), int(x0[i])) for i in range(len(x)))


Pinned = tuple[float, int] | None


def expected_loss(score: Score, Q: torch.Tensor, sigma: float, x0: torch.Tensor, pinned: Pinned = None) -> float:
    """E_{x ~ p(. | x0)} of the score entropy summed over positions, at one sigma, by enumerating x. x0: [L].

    pinned: as for `corruption`; it changes which x are seen, not the ratios.
    """
    P, S, L = transition(Q, sigma), len(Q), len(x0)
    chance = corruption(Q, sigma, pinned)
    total = 0.0
    xs = sequences(S, L)
    log_s = score(xs, sigma).log()
    for row, x in enumerate(xs):
        weight = math.prod(float(chance[x[i], x0[i]]) for i in range(L))
        if weight == 0:
            continue
        total += weight * sum(_score_entropy(Q, P, log_s[row, i].tolist(), int(x[i]), int(x0[i])) for i in range(L))
    return total


def loss_integral(
    score: Score,
    Q: torch.Tensor,
    x0: torch.Tensor,
    sigma_low: float,
    sigma_high: float,
    nodes: int = 48,
    pinned: Pinned = None,
) -> float:
    """The DWDSE loss: integral of `expected_loss` over sigma, by Gauss-Legendre in log sigma. dsigma = sigma dlog."""
    points, weights = np.polynomial.legendre.leggauss(nodes)
    low, high = math.log(sigma_low), math.log(sigma_high)
    total = 0.0
    for point, weight in zip(points, weights, strict=True):
        sigma = math.exp(0.5 * (high - low) * point + 0.5 * (high + low))
        total += 0.5 * (high - low) * weight * sigma * expected_loss(score, Q, sigma, x0, pinned)
    return total


def information(p0: torch.Tensor, Q: torch.Tensor, x0: torch.Tensor, sigma: float) -> float:
    """D_KL(p_sigma(. | x0) || p_sigma) in nats.

    It equals -log p0(x0) at sigma = 0. Its derivative in sigma is minus the `expected_loss` of the exact score.
    """
    L = len(x0)
    clean = torch.zeros_like(p0)
    clean[tuple(x0)] = 1.0
    noisy, p = diffuse(clean, Q, sigma), diffuse(p0, Q, sigma)
    assert noisy.dim() == L
    return float(sum(a * (a.log() - b.log()) for a, b in zip(noisy.flatten(), p.flatten(), strict=True) if a > 0))
