"""exp(sigma·Q) from Q alone, for graphs without a closed form.

For sigma ≥ 0 by uniformisation: exp(sigma·Q) = Σ_k Poisson(k; sigma·c)·(I + Q/c)^k with c the largest rate at which a
state is left. All terms are positive, so entries are not negative and small ones have small errors relative to
themselves, which ratios of them need. (A general matrix exponential is right relative to the largest entry only.)
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

#: The largest sigma·c that the sum is taken for; above it a matrix of less noise is squared.
LARGEST = 64.0
#: Elements of the matrices that are squared at once.
BLOCK = 2**24
#: Noise levels that differ by less share a number of powers.
STRIDE = 8.0


def columns(Q: Tensor, sigma: Tensor, x: Tensor) -> Tensor:
    """The column of exp(sigma·Q) at each x [...], [..., S] float64, for Q [S, S] and finite sigma of x's shape."""
    # each pair of a noise level and a state once
    levels, level = sigma.double().unique(return_inverse=True)
    pairs, which = (level * len(Q) + x).unique(return_inverse=True)
    sigma, x = levels[pairs // len(Q)], pairs % len(Q)
    direct = sigma * _fastest(Q)
    found = Q.new_empty(len(pairs), len(Q))
    inverse, much = direct < 0, direct > LARGEST
    for chosen, of in ((inverse, _inverse), (~inverse & ~much, _sum), (much, _squared)):
        if bool(chosen.any()):
            found[chosen] = of(Q, sigma[chosen], x[chosen])
    return found[which]


def limit(Q: Tensor) -> Tensor:
    """exp(sigma·Q) [S, S] for infinite sigma."""
    matrix = _matrices(Q, (LARGEST / _fastest(Q))[None])[0]
    for _ in range(100):
        before, matrix = matrix, matrix @ matrix
        matrix = matrix / matrix.sum(0)  # or rounding would grow with every square
        if torch.allclose(matrix, before, rtol=1e-15 * (10 + len(Q)), atol=0):
            break
    return matrix


def _fastest(Q: Tensor) -> Tensor:
    return -Q.diagonal().min()


def _sum(Q: Tensor, sigma: Tensor, x: Tensor) -> Tensor:
    """Uniformisation for sigma [P] from 0 to LARGEST/c and x [P]: [P, S]."""
    mean = sigma * _fastest(Q)  # of the number of moves
    moved = (torch.eye(len(Q), dtype=Q.dtype, device=Q.device) + Q / _fastest(Q)).T
    states, which = x.unique(return_inverse=True)
    after = torch.zeros(len(states), len(Q), dtype=Q.dtype, device=Q.device)  # k moves, from each different x
    after[torch.arange(len(states), device=x.device), states] = 1.0
    weight = torch.exp(-mean)  # Poisson(k; mean)
    total, k, least = weight[:, None] * after[which], 0, float(mean.max())
    while True:
        k += 1
        after, weight = after @ moved, weight * mean / k
        term = weight[:, None] * after[which]
        total += term
        # a state that k moves reach first is a term of its own; once a term adds nothing no later one does
        if k > least and not bool((term > 2.0**-54 * total).any()):
            return total


def _squared(Q: Tensor, sigma: Tensor, x: Tensor) -> Tensor:
    """For sigma [P] above LARGEST/c: exp(sigma·Q) = exp(sigma/2^n·Q)^(2^n)."""
    levels, which = sigma.unique(return_inverse=True)
    found = Q.new_empty(len(sigma), len(Q))
    at_once = max(1, BLOCK // Q.numel())
    for first in range(0, len(levels), at_once):
        part = levels[first : first + at_once]
        squares = int((part.max() * _fastest(Q) / LARGEST).log2().ceil())
        matrices = _matrices(Q, part / 2**squares)
        for _ in range(squares):
            matrices = matrices @ matrices
        here = (which >= first) & (which < first + at_once)
        found[here] = matrices[which[here] - first, :, x[here]]
    return found


def _matrices(Q: Tensor, sigma: Tensor) -> Tensor:
    """exp(sigma·Q) for sigma [U] from 0 to LARGEST/c: [U, S, S]."""
    states = torch.arange(len(Q), device=Q.device)
    return _sum(Q, sigma.repeat_interleave(len(Q)), states.repeat(len(sigma))).view(-1, *Q.shape).mT


def _inverse(Q: Tensor, sigma: Tensor, x: Tensor) -> Tensor:
    """For sigma [P] < 0: the inverse of the matrix at −sigma. Its entries grow as e^{−sigma·c} and have both signs."""
    levels, which = sigma.unique(return_inverse=True)
    found = Q.new_empty(len(sigma), len(Q))
    for number, level in enumerate(levels):
        here = which == number
        found[here] = torch.matrix_exp(level * Q)[:, x[here]].mT
    return found


class Powers(NamedTuple):
    """(I + Q/c)^k for k = 0, 1, … [K, S, S]. needed: noise levels, each with the powers that the sum needs up to it."""

    matrices: Tensor
    needed: tuple[tuple[float, int], ...]


def powers(Q: Tensor, sigma: float, most: int) -> Powers:
    """As many powers as the sum at `sigma` needs; none at all if they have over `most` numbers."""
    moved = torch.eye(len(Q), dtype=Q.dtype) + Q / _fastest(Q)
    found, needed = [torch.eye(len(Q), dtype=Q.dtype)], []
    for level in (sigma / STRIDE**2, sigma / STRIDE, sigma):
        mean = level * float(_fastest(Q))
        weight, k = math.exp(-mean), 0
        total = weight * found[0]
        while True:
            k += 1
            if k == len(found):
                if (k + 1) * Q.numel() > most:
                    return Powers(Q.new_empty(0, *Q.shape), ())
                found.append(moved @ found[-1])
            weight *= mean / k
            term = weight * found[k]
            total = total + term
            if k > mean and not bool((term > 2.0**-54 * total).any()):
                break
        needed.append((level, k + 1))
    return Powers(torch.stack(found), tuple(needed))


def of_powers(powers: Powers, Q: Tensor, sigma: Tensor) -> Tensor:
    """exp(sigma·Q) [U, S, S] for sigma [U], from 0 to that of `powers`; without powers, by `columns`.

    Less noise needs no more powers than more noise: it weighs the first ones more.
    """
    if not powers.needed:
        return _matrices(Q, sigma)
    found, above = Q.new_empty(len(sigma), *Q.shape), -1.0
    for upto, count in powers.needed:
        chosen = (sigma > above) & (sigma <= upto)
        mean = (sigma[chosen] * _fastest(Q))[:, None]
        k = torch.arange(count, dtype=Q.dtype, device=Q.device)
        weight = torch.exp(torch.xlogy(k, mean) - mean - torch.lgamma(k + 1))  # Poisson(k; mean)
        found[chosen] = (weight @ powers.matrices[:count].flatten(1)).view(-1, *Q.shape)
        above = upto
    return found
