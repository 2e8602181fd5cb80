"""Worlds small enough to enumerate: three tokens, short sequences, networks that look the answer up."""

from __future__ import annotations

import itertools

import reference
import torch

from sedd_cli.core.graphs import GRAPHS, Graph
from sedd_cli.core.noises import Noise
from sedd_cli.core.score import ScoreModel

N = 3


def world(name: str, L: int, seed: int = 0) -> tuple[Graph, torch.Tensor, torch.Tensor]:
    """(graph, Q, p0): the graph over N tokens, its dense rates, a data distribution over its states."""
    Q = reference.rate_matrix(name, N)
    return GRAPHS[name](tokens=N), Q, reference.source(N, L, len(Q), seed)


def score_model(graph: Graph, noise: Noise, score: reference.Score) -> ScoreModel:
    """The package's model around a network that knows `score`."""
    scaled = getattr(graph, "scale_by_sigma", False)
    return ScoreModel(reference.Oracle(score, graph.tokens if scaled else None), graph, noise)


def noisy(graph: Graph, Q: torch.Tensor, x0: torch.Tensor, sigma: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Every x that x0 [L] can become, as uniforms u [M, L] that make `perturb` give it, and p(x | x0) [M]."""
    P = reference.transition(Q, sigma)
    level = torch.tensor([sigma], dtype=torch.float64)
    lam = -torch.expm1(-level)
    S = graph.states
    tries = torch.cat([lam * (torch.arange(S) + 0.5) / S, (1 + lam) / 2])
    choices = []  # for each position: x -> u
    for token in x0.tolist():
        found = graph.perturb(torch.full((1, len(tries)), token), level, tries[None])[0]
        choices.append({int(x): float(u) for x, u in zip(found, tries, strict=True)})
    rows = list(itertools.product(*choices))
    u = torch.tensor([[choices[i][x] for i, x in enumerate(row)] for row in rows], dtype=torch.float64)
    weight = torch.stack([torch.stack([P[x, x0[i]] for i, x in enumerate(row)]).prod() for row in rows])
    return u, weight
