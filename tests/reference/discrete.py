"""Discrete time: posteriors of the clean token and D3PM's variational bound."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch

from sedd_cli.testing.reference import Score, sequences, transition


def mean_score(Q: torch.Tensor, sigma: float, x: int, p: torch.Tensor) -> torch.Tensor:
    """The score Σ_{x0} p(x0)·p(y|x0)/p(x|x0) of every state y, [S]; p [N] is the distribution of the clean token."""
    P = transition(Q, sigma)
    return sum(p[x0] * P[:, x0] / P[x, x0] for x0 in range(len(p)) if P[x, x0] > 0)


def step_posterior(Q: torch.Tensor, sigma_s: float, sigma_t: float, x: int, x0: int) -> torch.Tensor:
    """p(x_s = y | x_t = x, x0) for every state y, [S]: products of dense transitions (D3PM, eq. 3)."""
    mass = transition(Q, sigma_t - sigma_s)[x] * transition(Q, sigma_s)[:, x0]
    return mass / mass.sum()


def mean_step(Q: torch.Tensor, sigma_s: float, sigma_t: float, x: int, p: torch.Tensor) -> torch.Tensor:
    """p(x_s = y | x_t = x) of D3PM's mean parametrization, [S]; p [N] is the distribution of the clean token (eq. 4).

    Clean tokens that cannot become x have probability zero, whatever p is.
    """
    possible = [x0 for x0 in range(len(p)) if transition(Q, sigma_t)[x, x0] > 0]
    return sum(p[x0] * step_posterior(Q, sigma_s, sigma_t, x, x0) for x0 in possible) / p[possible].sum()


def kl(p: torch.Tensor, q: torch.Tensor) -> float:
    """D_KL(p ‖ q) of two finite distributions, in nats."""
    return float(sum(a * (a.log() - b.log()) for a, b in zip(p, q, strict=True) if a > 0))


def discrete_terms(clean: Score, Q: torch.Tensor, levels: Sequence[float], x0: torch.Tensor) -> list[float]:
    """L_1 … L_T of D3PM's variational bound for one x0 [L], all x_t enumerated; levels[t] is sigma after step t.

    clean(x, sigma) → [M, L, N], the network's distribution of the clean tokens.
    """
    S, L = len(Q), len(x0)
    xs, terms = sequences(S, L), []
    for sigma_s, sigma_t in itertools.pairwise(levels):
        P, total = transition(Q, sigma_t), 0.0
        weights = [math.prod(float(P[x[i], x0[i]]) for i in range(L)) for x in xs]
        p = clean(xs, sigma_t)
        for row, (x, weight) in enumerate(zip(xs.tolist(), weights, strict=True)):
            if weight:
                total += weight * sum(
                    kl(
                        step_posterior(Q, sigma_s, sigma_t, x[i], int(x0[i])),
                        mean_step(Q, sigma_s, sigma_t, x[i], p[row, i]),
                    )
                    for i in range(L)
                )
        terms.append(total)
    return terms
