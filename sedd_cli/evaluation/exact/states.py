"""Distributions of all sequences, and steps of independent positions."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from sedd_cli.core.conditioning import Conditioning
from sedd_cli.core.score import ScoreModel
from sedd_cli.errors import RequestError

#: Most sequences that are enumerated.
MOST_SEQUENCES = 100_000
#: Sequences that the network gets at once.
BATCH = 1 << 13


@dataclass(frozen=True)
class Distribution:
    """The probability of every sequence [S^L] float64 in the order of `sequences`, and the mean network evaluations.

    An evaluation counts where a position could move; what thinning spares is not taken off.
    """

    p: Tensor
    evaluations: float


def check_enumerable(states: int, length: int, letters: int | None = None) -> None:
    """RequestError where there are too many sequences to enumerate; with `letters`, these may be fewer, too."""
    if _enumerable(states, length):
        return
    longest = max((n for n in range(1, length) if _enumerable(states, n)), default=None) if length < 1 << 16 else None
    advice = [] if longest is None else [f"--length {longest}"]
    if letters is not None:
        fewer = [n for n in range(2, letters) if _enumerable(states - letters + n, length)]
        advice += [f"--letters {fewer[-1]}"] if fewer else []
    raise RequestError(
        f"--exact enumerates all sequences: {states:,} states at {length:,} positions are "
        f"10^{length * math.log10(states):,.1f} sequences, at most {MOST_SEQUENCES:,} are possible"
        + (f"; the most that fits: {' or '.join(advice)}" if advice else "")
    )


def _enumerable(states: int, length: int) -> bool:
    return length * math.log(states) <= math.log(MOST_SEQUENCES) + 1e-9


def conditional(p: Tensor, states: int, given: dict[int, int]) -> Tensor:
    """The distribution [S^L] given the tokens at some positions."""
    length = round(math.log(len(p), states))
    at = tuple(given.get(i, slice(None)) for i in range(length))
    found = torch.zeros((states,) * length, dtype=p.dtype)
    found[at] = p.view(found.shape)[at]
    return (found / found.sum()).flatten()


def sequences(states: int, length: int) -> Tensor:
    """All sequences [S^L, L], the last position fastest."""
    return torch.cartesian_prod(*[torch.arange(states)] * length).view(-1, length)


def push(p: Tensor, rows: Tensor) -> Tensor:
    """The distribution [S^L] after positions move independently: from p [M] by rows [M, L, S]."""
    half = rows.shape[1] // 2
    left, right = p[:, None], torch.ones_like(p)[:, None]
    for i in range(rows.shape[1]):
        if i < half:
            left = (left[:, :, None] * rows[:, i, None, :]).flatten(1)
        else:
            right = (right[:, :, None] * rows[:, i, None, :]).flatten(1)
    return (left.T @ right).flatten()


def start_distribution(model: ScoreModel, clamp: Conditioning) -> Tensor:
    """p_base with the given tokens, [S^L]."""
    graph, length = model.graph, clamp.where.shape[1]
    rows = graph.base().expand(1, length, -1)
    rows = torch.where(clamp.where[..., None], F.one_hot(clamp.tokens, graph.states).double(), rows)
    return push(torch.ones(1, dtype=torch.float64), rows)
