"""Transitions between tokens that are near each other in an embedding (D3PM: Austin et al. 2021, appendix A.2.4)."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import ClassVar, Self

import torch
from torch import Tensor

from sedd_cli.core.graphs.base import GRAPHS
from sedd_cli.core.graphs.symmetric import Symmetric
from sedd_cli.core.tokens import TokenStatistics

#: Most characters of `edges`, which stands in the recipe of every checkpoint.
MOST_EDGES = 1 << 18


@GRAPHS.register
@dataclass(frozen=True)
class NearestNeighbour(Symmetric):
    """A token moves to its `neighbours` nearest tokens, and to those that it is one of the nearest of.

    Rates are (G + Gᵀ)/2 with G(a, b) = 1 for the nearest b of a, as in D3PM: all others are 0. Where the tokens fall
    into parts without a connection, the nearest pair of two parts is connected, too. Unlike D3PM's code, which divides
    rates by k and embeddings by their norm: rates are scaled so that the fastest token is left at rate 1, and distances
    are those of the vectors as they are.

    Attributes:
        neighbours: k; from N − 1 on, all other tokens.
        embedding: A .npy or .safetensors file with a vector for each token; null: how often each token stands
            before and after each other one in the training text.
        edges: The nearest tokens of each token, "1,4;0,2;…": measured when a training begins, and kept with the model.
            Empty: the tokens with the nearest ids, so that cost and speed can be estimated before.
    """

    name: ClassVar[str] = "nearest_neighbour"
    measured: ClassVar[str | None] = "edges"
    neighbours: int = 4
    embedding: str | None = None
    edges: str = ""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.neighbours < 1:
            raise ValueError(f"neighbours must be at least 1, found {self.neighbours}")
        if len(self.edges) > MOST_EDGES:
            raise ValueError(f"edges have {len(self.edges):,} characters, the most is {MOST_EDGES:,}")
        if not re.fullmatch(r"[0-9,;]*", self.edges):
            raise ValueError("edges must be ids like 1,4;0,2: those of a token apart by commas, tokens by semicolons")

    def measure(self, tokens: TokenStatistics) -> Self:
        """The graph with the edges of the embedding, or of the training text."""
        self._check_dense()
        if self.embedding is None:
            vectors = contexts(tokens.pairs())
        else:
            vectors = tokens.embedding(self.embedding)
            if len(vectors) != self.vocab_size:
                raise ValueError(
                    f"the embedding {self.embedding} has {len(vectors):,} rows, the vocabulary {self.vocab_size:,} "
                    "tokens"
                )
        rows = nearest(vectors, min(self.neighbours, self.vocab_size - 1))
        edges = ";".join(",".join(str(b) for b in row) for row in rows)
        if len(edges) > MOST_EDGES:
            raise ValueError(f"{self.neighbours} neighbours of {self.vocab_size:,} tokens are too many: choose fewer")
        return replace(self, edges=edges)

    def weights(self) -> Tensor:
        near = torch.zeros(self.vocab_size, self.vocab_size, dtype=torch.float64)
        for token, row in enumerate(self._rows()):
            near[token, row] = 1.0
        return (near + near.T) / 2

    def _rows(self) -> list[list[int]]:
        """The nearest tokens of each token."""
        if not self.edges:
            ids = torch.arange(self.vocab_size, dtype=torch.float64)[:, None]
            return nearest(ids, min(self.neighbours, self.vocab_size - 1))
        rows = [[int(b) for b in row.split(",") if b] for row in self.edges.split(";")]
        if len(rows) != self.vocab_size or not all(b < self.vocab_size for row in rows for b in row):
            raise ValueError(f"edges are those of {len(rows):,} tokens, the vocabulary has {self.vocab_size:,}")
        return rows


def contexts(pairs: Tensor) -> Tensor:
    """Vectors of tokens [N, 2N] whose distance is that of the distributions of the tokens around them (Hellinger's).

    pairs [N, N] counts a before b. Each token is counted once more with the neighbours of all tokens together, so that
    rare ones lie near the middle.
    """
    sides = []
    for counts in (pairs, pairs.T):  # the tokens after each, and those before
        mean = counts.sum(0) + 1 / len(counts)
        counts = counts + mean / mean.sum()
        sides.append((counts / counts.sum(-1, keepdim=True)).sqrt())
    return torch.cat(sides, -1)


def nearest(vectors: Tensor, neighbours: int) -> list[list[int]]:
    """The nearest tokens of each, for vectors [N, D], and the shortest connections between separate parts."""
    distance = torch.cdist(vectors, vectors, compute_mode="donot_use_mm_for_euclid_dist").fill_diagonal_(torch.inf)
    rows = distance.topk(neighbours, largest=False).indices.tolist()
    part = torch.arange(len(rows))
    for a, row in enumerate(rows):
        for b in row:
            part[part == part[b]] = part[a].clone()
    while bool((inside := part == part[0]).logical_not().any()):
        apart = distance.masked_fill(inside[:, None] == inside, torch.inf)
        a, b = divmod(int(apart.argmin()), len(rows))
        rows[a].append(b)
        part[part == part[b]] = part[a].clone()
    return [sorted(row) for row in rows]
