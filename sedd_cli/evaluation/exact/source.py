"""A Markov chain whose sequences are enumerated, and a network that gives its exact scores."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sedd_cli.core.graphs import Graph
from sedd_cli.core.score import ScoreModel
from sedd_cli.data.corpora.markov import Chain
from sedd_cli.data.statistics import read_embedding
from sedd_cli.errors import RequestError, shortened
from sedd_cli.recipe.part import GraphPart, SchedulePart

LETTERS = "abcdefghijklmnopqrstuvwxyz"
#: Of the Dirichlet distribution of a row of the chain: neighbours depend on each other, and no letter is impossible.
CONCENTRATION = 0.5
#: The share of each row that is spread evenly: Dirichlet draws may be as small as 1e-9.
EVEN = 0.01
#: Noise levels of which the outputs for all sequences are kept.
MOST_TABLES = 40


@dataclass(frozen=True)
class MarkovSource:
    """Sequences of `length` letters of a stationary Markov chain of order 1, which `seed` draws."""

    letters: int = 4
    length: int = 6
    seed: int = 0

    def chain(self) -> Chain:
        """The chain: each row is a Dirichlet draw."""
        weights = np.random.Generator(np.random.PCG64(self.seed)).standard_gamma(
            CONCENTRATION, (self.letters, self.letters)
        )
        weights = weights / weights.sum(axis=1, keepdims=True)
        return Chain(1, (1 - EVEN) * weights + EVEN / self.letters, LETTERS[: self.letters])

    def distribution(self) -> Tensor:
        """The probability of every sequence, [N]*L float64."""
        chain = self.chain()
        p, step = torch.from_numpy(chain.stationary()), torch.from_numpy(chain.transition)
        for _ in range(self.length - 1):
            p = p[..., None] * step
        return p

    def model(self, graph: str | GraphPart, noise: str | SchedulePart = "loglinear") -> ScoreModel:
        """The exact scores: on a masking graph as logits of the clean token, else log-scores.

        What the parts measure of a training text, they measure of the chain. RequestError where they do not fit.
        """
        graph = graph if isinstance(graph, GraphPart) else GraphPart.from_text(graph, "graph")
        noise = noise if isinstance(noise, SchedulePart) else SchedulePart.from_text(noise, "noise")
        try:
            tokens, made, schedule = Statistics(self.chain()), graph.make(vocab_size=self.letters), noise.make()
            made = made.measure(tokens) if made.measured and not getattr(made, made.measured) else made
            schedule.check(made)
            if schedule.measured and not getattr(schedule, schedule.measured):
                schedule = schedule.measure(tokens, made)
        except ValueError as error:
            raise RequestError(str(error)) from None
        parametrization = "mean" if made.masking else "score"
        return ScoreModel(ExactNetwork(made, self.distribution()), made, schedule, parametrization=parametrization)

    def to_data(self) -> dict[str, Any]:
        """The chain and how it is drawn."""
        chain = self.chain()
        return {
            "alphabet": chain.letters,
            "initial": chain.stationary().tolist(),
            "transition": chain.transition.tolist(),
            "drawn": {"generator": "numpy PCG64", "seed": self.seed, "dirichlet": CONCENTRATION, "even_share": EVEN},
        }

    def given(self, text: str | None) -> dict[int, int]:
        """The letters given at positions by a text like "a??b"; RequestError for one that fits no sequence."""
        if text is None:
            return {}
        alphabet = LETTERS[: self.letters]
        if wrong := sorted(set(text) - set(alphabet) - {"?"}):
            raise RequestError(
                f"given {shortened(text)!r}: {wrong[0]!r} is neither ? nor one of the letters {alphabet}"
            )
        if len(text) != self.length:
            raise RequestError(f"given {shortened(text)!r} has {len(text):,} positions, length is {self.length}")
        if "?" not in text:
            raise RequestError(f"given {text!r} leaves nothing free: write ? for a free position")
        return {i: alphabet.index(letter) for i, letter in enumerate(text) if letter != "?"}

    def describe(self) -> str:
        """A description in one line."""
        entropy = self.chain().block_entropy(self.length)
        return f"a Markov chain of {self.letters} letters and length {self.length}, {entropy:.2f} nats, exact scores"


@dataclass(frozen=True)
class Statistics:
    """What graphs and schedules may measure of a text (`TokenStatistics`), of a chain of order 1."""

    chain: Chain

    def counts(self) -> Tensor:
        return torch.from_numpy(self.chain.stationary())

    def pairs(self) -> Tensor:
        return torch.from_numpy(self.chain.stationary()[:, None] * self.chain.transition)

    def embedding(self, file: str) -> Tensor:
        return read_embedding(Path(file))


class ExactNetwork:
    """A network whose outputs are exact for sequences with the distribution p0 [N]*L."""

    def __init__(self, graph: Graph, p0: Tensor):
        self.graph, self.length = graph, p0.dim()
        self.p0 = torch.zeros((graph.states,) * p0.dim(), dtype=torch.float64)
        self.p0[(slice(0, graph.vocab_size),) * p0.dim()] = p0
        self.place = graph.states ** torch.arange(self.length - 1, -1, -1)
        self.table = lru_cache(maxsize=MOST_TABLES)(self._table)

    def _table(self, sigma: float) -> Tensor:
        """The output for every sequence [S^L, L, S]."""
        p, level = self.p0, torch.tensor(sigma, dtype=torch.float64)
        for axis in range(self.length):
            p = p.movedim(axis, -1)
            if self.graph.masking:  # what sequences with MASK have in total, without noise
                p = torch.cat([p[..., : self.graph.vocab_size], p.sum(-1, keepdim=True)], -1)
            else:
                p = self.graph.propagate(level.expand(p.shape[:-1]), p)
            p = p.movedim(-1, axis)
        log_p, outputs = p.log(), []
        for axis in range(self.length):
            along = log_p.movedim(axis, -1)
            ratios = along[..., None, :] - along[..., :, None]  # [..., x_i, y]
            outputs.append(ratios.movedim(-2, axis).reshape(-1, self.graph.states))
        return torch.stack(outputs, 1)

    def hidden(self, x: Tensor, sigma: Tensor) -> Tensor:
        """[B, L, S] for x [B, L], sigma [B]: the log of p(y)/p(x) for y that differs from x at one position."""
        levels = torch.zeros_like(sigma) if self.graph.masking else sigma
        flat, found = (x * self.place).sum(-1), None
        for level in levels.unique().tolist():
            rows = self.table(level).index_select(0, flat)
            found = rows if found is None else torch.where((levels == level)[:, None, None], rows, found)
        assert found is not None
        return found

    def head(self, hidden: Tensor) -> Tensor:
        return hidden
