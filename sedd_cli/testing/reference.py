"""The forward process of small state spaces: transitions, distributions over sequences, scores.

Slow, obvious truths, which import nothing of the package: dense matrices, enumeration, loops. `Q[y, x]` is the rate
from state x into state y, so columns sum to zero and `P[y, x0] = p(y | x0)`. A distribution over sequences of length L
is a tensor with L axes of S states each.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import torch

#: (x [M, L], sigma) → ratios s_y = p(y)/p(x), [M, L, S] float64.
Score = Callable[[torch.Tensor, float], torch.Tensor]


def limit(Q: torch.Tensor) -> torch.Tensor:
    """exp(sigma Q) at infinite sigma, [S, S], of a graph with one distribution that all states tend to."""
    S = len(Q)
    # Q p = 0 and sum(p) = 1
    A = torch.cat([Q, torch.ones(1, S, dtype=torch.float64)])
    b = torch.cat([torch.zeros(S, dtype=torch.float64), torch.ones(1, dtype=torch.float64)])
    p = torch.linalg.lstsq(A, b[:, None], driver="gelsd").solution
    return p.expand(S, S)


def transition(Q: torch.Tensor, sigma: float) -> torch.Tensor:
    """exp(sigma Q), [S, S]: column x0 is p(. | x0).

    For sigma >= 0 the sum of Poisson(k; c sigma) (I + Q/c)^k over k: `matrix_exp` is right relative to the largest
    entry only, and small ones are compared with, too.
    """
    if sigma < 0:
        return torch.matrix_exp(sigma * Q)
    return _uniformised(tuple(Q.flatten().tolist()), float(sigma)).clone()


@lru_cache(maxsize=4096)
def _uniformised(entries: tuple[float, ...], sigma: float) -> torch.Tensor:
    S, c = math.isqrt(len(entries)), -min(entries)  # the smallest rate is on the diagonal
    mean = c * sigma
    terms = int(mean + 12 * math.sqrt(mean)) + S + 40 if mean else 1
    k = torch.arange(terms, dtype=torch.float64)
    poisson = torch.exp(torch.xlogy(k, torch.tensor(mean, dtype=torch.float64)) - mean - torch.lgamma(k + 1))
    return torch.einsum("k,kyx->yx", poisson, _powers(entries, 2 ** (terms - 1).bit_length())[:terms])


@lru_cache(maxsize=256)
def _powers(entries: tuple[float, ...], count: int) -> torch.Tensor:
    """(I + Q/c)^k for k < count, [count, S, S], with c the largest rate of leaving a state."""
    Q = torch.tensor(entries, dtype=torch.float64).view(math.isqrt(len(entries)), -1)
    powers = [torch.eye(len(Q), dtype=torch.float64)]
    for _ in range(count - 1):
        powers.append(powers[-1] + Q @ powers[-1] / -min(entries))
    return torch.stack(powers)


def sequences(S: int, L: int) -> torch.Tensor:
    """All S^L sequences in row-major order, [S^L, L]: row j is the multi-index of flat position j."""
    return torch.tensor(list(itertools.product(range(S), repeat=L)))


def source(N: int, L: int, S: int, seed: int = 0, sharpness: float = 1.5) -> torch.Tensor:
    """A correlated data distribution over N^L with full support, inside a tensor with L axes of S states."""
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.softmax(sharpness * torch.randn(N**L, dtype=torch.float64, generator=generator), dim=0)
    p0 = torch.zeros((S,) * L, dtype=torch.float64)
    p0[(slice(0, N),) * L] = tokens.reshape((N,) * L)
    return p0


def diffuse(p0: torch.Tensor, Q: torch.Tensor, sigma: float) -> torch.Tensor:
    """p_sigma: the transition applied to every axis of p0."""
    P, p = transition(Q, sigma), p0
    for axis in range(p0.dim()):
        p = torch.movedim(torch.tensordot(P, p.movedim(axis, 0), dims=1), 0, axis)
    return p


def exact_score(p0: torch.Tensor, Q: torch.Tensor) -> Score:
    """The ratios p_sigma(y)/p_sigma(x) of sequences that differ in one position, read from the dense p_sigma."""
    S, L = len(Q), p0.dim()
    place = torch.tensor([S ** (L - 1 - i) for i in range(L)])

    def score(x: torch.Tensor, sigma: float) -> torch.Tensor:
        p = diffuse(p0, Q, sigma).flatten()
        flat = (x * place).sum(-1)
        y = torch.arange(S)
        neighbour = flat[:, None, None] + (y - x[..., None]) * place[:, None]
        return p[neighbour] / p[flat][:, None, None]

    return score


def wrong_score(p0: torch.Tensor, Q: torch.Tensor, spread: float = 0.7, seed: int = 7) -> Score:
    """The exact score with every ratio multiplied by its own factor, a smooth function of sigma."""
    S, L, right = len(Q), p0.dim(), exact_score(p0, Q)
    generator = torch.Generator().manual_seed(seed)
    table, slope = torch.randn(2, S**L, L, S, dtype=torch.float64, generator=generator)
    place = torch.tensor([S ** (L - 1 - i) for i in range(L)])

    def score(x: torch.Tensor, sigma: float) -> torch.Tensor:
        flat = (x * place).sum(-1)
        off = spread * (table[flat] - math.expm1(-sigma) * slope[flat])
        return right(x, sigma) * off.scatter(-1, x[..., None], 0.0).exp()

    return score


def clean_posterior(p0: torch.Tensor, Q: torch.Tensor, N: int) -> Score:
    """p(x0_i = y | x_sigma = x) of the data distribution: x [M, L], sigma → [M, L, N], by enumeration of x0."""
    L = p0.dim()
    clean = sequences(N, L)
    weight = torch.stack([p0[tuple(row)] for row in clean])

    def posterior(x: torch.Tensor, sigma: float) -> torch.Tensor:
        P = transition(Q, sigma)
        likelihood = torch.stack(
            [weight * torch.stack([P[row[i], clean[:, i]] for i in range(L)]).prod(0) for row in x]
        )
        joint = likelihood / likelihood.sum(1, keepdim=True)
        found = [[joint[:, clean[:, i] == y].sum(1) for y in range(N)] for i in range(L)]
        return torch.stack([torch.stack(each, -1) for each in found], 1)

    return posterior


@dataclass(frozen=True)
class Oracle:
    """A network whose output is a given score.

    tokens: N if the graph adds the factor 1/(N expm1 sigma) to the output, else None.
    """

    score: Score
    tokens: int | None = None

    def hidden(self, x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        parts = []
        for level in sigma.unique().tolist():
            rows = sigma == level
            part = self.score(x[rows], level).log()
            if self.tokens is not None:
                part = part + math.log(math.expm1(level)) + math.log(self.tokens)
            parts.append((rows, part))
        z = parts[0][1].new_empty(*x.shape, parts[0][1].shape[-1])
        for rows, part in parts:
            z[rows] = part
        return z

    def head(self, hidden: torch.Tensor) -> torch.Tensor:
        return hidden
