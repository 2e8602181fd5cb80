"""Text drawn from a Markov chain over characters: the one corpus whose entropy rate is known exactly.

The best possible bound on real text is unknown. Here it is known, so the distance to it measures the model.
"""

from __future__ import annotations

from bisect import bisect
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache, partial

import numpy as np

from sedd_cli.data.corpora.base import SPLITS, Corpus, Request, Source, StochasticProcess

SIZES = {"train": 2_000_000, "validation": 100_000, "test": 100_000}
ORDER = 2
LETTERS = " abcdefg"  # a part of text8's alphabet
CONCENTRATION = 0.2  # of the Dirichlet distribution of a row; 0.2 gives about 1.5 bits per character
SEED = 0
_PIECE = 1 << 16


@dataclass(frozen=True, eq=False)
class Chain:
    """A stationary Markov chain over characters.

    order: how many characters back the next one depends on. letters: the alphabet, S characters.
    transition: [S**order, S] float64, p(next letter | context); rows sum to 1. A context's row number is its
    letters read as digits to base S, the oldest first. One class of contexts must be reached from all others.
    """

    order: int
    transition: np.ndarray
    letters: str

    def __post_init__(self) -> None:
        shape = (len(self.letters) ** self.order, len(self.letters))
        if self.transition.shape != shape:
            raise ValueError(f"transition is {self.transition.shape}; order and letters ask for {shape}")

    def stationary(self) -> np.ndarray:
        """pi [S**order], the distribution of `order` consecutive characters: pi P = pi, and its sum is 1."""
        contexts, size = self.transition.shape
        step = np.zeros((contexts, contexts))
        for letter in range(size):
            step[np.arange(contexts), (np.arange(contexts) * size + letter) % contexts] += self.transition[:, letter]
        # pi (I - P) = 0 alone is singular; adding sum(pi) = 1 to every equation makes it regular.
        pi = np.linalg.solve((np.eye(contexts) - step + 1.0).T, np.ones(contexts))
        pi = np.maximum(pi, 0.0)  # transient contexts may come out at -1e-17
        return pi / pi.sum()

    def entropy_rate(self) -> float:
        """-sum over contexts and letters of pi p log p, in nats per character."""
        return float(self.stationary() @ _entropy(self.transition))

    def block_entropy(self, length: int) -> float:
        """Entropy of `length` consecutive characters, in nats: past the first `order`, each adds the rate."""
        first = float(_entropy(self._marginal(min(length, self.order))))
        return first + max(length - self.order, 0) * self.entropy_rate()

    def nats(self, text: str) -> np.ndarray:
        """[characters] float64: -log p of each character given those before it, the first from `stationary`.

        inf for an impossible character, and for one within `order` characters after a foreign letter.
        """
        size = len(self.letters)
        digit = {letter: place for place, letter in enumerate(self.letters)}
        ids = np.array([digit.get(letter, -1) for letter in text], dtype=np.int64)
        probability = np.zeros(len(text))
        start, context, before = min(self.order, len(text)), 0, 1.0
        for place in range(start):
            if ids[place] < 0 or before == 0:
                break
            context = context * size + ids[place]
            together = self._marginal(place + 1)[context]
            probability[place], before = together / before, together
        # Windows [positions, order + 1]: a context and the letter behind it.
        if len(text) > self.order:
            windows = np.lib.stride_tricks.sliding_window_view(ids, self.order + 1)
            contexts = windows[:, :-1] @ size ** np.arange(self.order)[::-1]
            known = (windows >= 0).all(axis=1)
            probability[start:][known] = self.transition[contexts[known], windows[known, -1]]
        with np.errstate(divide="ignore"):
            return -np.log(probability)

    def draw(self, length: int, generator: np.random.Generator) -> str:
        """A stationary stretch of `length` characters; uses `generator.random` alone."""
        size, contexts = len(self.letters), len(self.transition)
        context = bisect(_cumulative(self.stationary()).tolist(), generator.random())
        found = [context // size**place % size for place in reversed(range(self.order))]
        rows = _cumulative(self.transition).tolist()
        while len(found) < length:
            for uniform in generator.random(min(_PIECE, length - len(found))).tolist():
                letter = bisect(rows[context], uniform)
                found.append(letter)
                context = (context * size + letter) % contexts
        return "".join([self.letters[letter] for letter in found[:length]])

    def _marginal(self, length: int) -> np.ndarray:
        """[S**length]: the distribution of `length` consecutive characters, for length up to the order."""
        return self.stationary().reshape(len(self.letters) ** length, -1).sum(axis=1)


def _entropy(p: np.ndarray) -> np.ndarray:
    """-sum p log p over the last axis, in nats; 0 log 0 is 0."""
    return -(p * np.log(np.where(p > 0, p, 1.0))).sum(axis=-1)


def _cumulative(p: np.ndarray) -> np.ndarray:
    """Running sums over the last axis that end in exactly 1, so that a uniform below 1 always falls to a letter."""
    total = p.cumsum(axis=-1)
    return total / total[..., -1:]


def _generator(stream: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64([SEED, stream]))


@lru_cache(maxsize=1)
def chain() -> Chain:
    """The corpus's chain: each row is a Dirichlet draw, made of `standard_gamma` variables of PCG64 stream 0."""
    weights = _generator(0).standard_gamma(CONCENTRATION, (len(LETTERS) ** ORDER, len(LETTERS)))
    return Chain(ORDER, weights / weights.sum(axis=1, keepdims=True), LETTERS)


@lru_cache(maxsize=len(SPLITS))
def _text(split: str) -> str:
    """A whole split: independent of the others, from PCG64 stream 1, 2 or 3."""
    return chain().draw(SIZES[split], _generator(1 + SPLITS.index(split)))


def _document(split: str) -> Iterator[str]:
    yield _text(split)


def _identity(request: Request) -> str:
    """Every choice, and the rate they lead to: numpy may change its gamma variables, and with them the text."""
    sizes = "/".join(str(size) for size in SIZES.values())
    return (
        f"markov order {ORDER} letters {LETTERS!r} concentration {CONCENTRATION} seed {SEED} "
        f"characters {sizes} rate {chain().entropy_rate():.9f}"
    )


def _open(request: Request) -> Source:
    return Source(
        location="drawn here",
        revision=_identity(request),
        splits={split: partial(_document, split) for split in SIZES},
        counts=dict.fromkeys(SIZES, 1),
        size=sum(SIZES.values()),
    ).only(request.split)


MARKOV = Corpus(
    name="markov",
    about="a Markov chain over 8 letters whose entropy rate is known",
    size="2 MB",
    licence="CC0-1.0",
    tokenizer="text8",
    origin=f"drawn on this machine from a fixed chain of order {ORDER}",
    open=_open,
    identity=_identity,
    windows=True,
    process=StochasticProcess(
        entropy_rate=lambda: chain().entropy_rate(),
        block_entropy=lambda length: chain().block_entropy(length),
        nats=lambda text: chain().nats(text),
    ),
)
