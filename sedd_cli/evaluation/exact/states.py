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
class Law:
    """The probability of every sequence [S^L] float64 in the order of `sequences`, and the mean network evaluations.

    An evaluation counts where a position could move; what thinning spares is not taken off.
    """

    p: Tensor
    evaluations: float


def check_enumerable(states: int, length: int) -> None:
    """RequestError where there are too many sequences to enumerate."""
    if length * math.log(states) > math.log(MOST_SEQUENCES) + 1e-9:
        raise RequestError(
            f"--exact enumerates all sequences: {states:,} states at {length:,} positions are "
            f"10^{length * math.log10(states):,.1f} sequences, at most {MOST_SEQUENCES:,} (the limit MOST_SEQUENCES)"
        )


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


def start_law(model: ScoreModel, clamp: Conditioning) -> Tensor:
    """p_base with the given tokens, [S^L]."""
    graph, length = model.graph, clamp.where.shape[1]
    rows = graph.base().expand(1, length, -1)
    rows = torch.where(clamp.where[..., None], F.one_hot(clamp.tokens, graph.states).double(), rows)
    return push(torch.ones(1, dtype=torch.float64), rows)
