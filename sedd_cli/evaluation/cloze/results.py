"""The result of a cloze, and the JSON document it becomes."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from sedd_cli.evaluation.likelihood.results import ModelIdentity


@dataclass(frozen=True)
class RestoredShare:
    """How many words were restored, their share, and its standard error (Agresti and Coull: not 0 for none or all)."""

    restored: int
    share: float
    error: float

    @classmethod
    def of(cls, right: list[bool]) -> RestoredShare:
        restored, words = sum(right), len(right)
        towards_half = (restored + 2) / (words + 4)
        return cls(restored, restored / words, math.sqrt(towards_half * (1 - towards_half) / (words + 4)))


@dataclass(frozen=True)
class ClozeExample:
    """A masked word as text, with its surroundings and what the model and the 5-gram put in its place."""

    before: str
    truth: str
    after: str
    model: str
    ngram: str | None

    def to_dict(self) -> dict[str, str | None]:
        found = asdict(self)
        return found | {"5-gram": found.pop("ngram")}


@dataclass(frozen=True, kw_only=True)
class ClozeResult:
    """How often a model and a 5-gram restored masked words, with everything needed to repeat the measurement.

    told: what both are given about a masked word. restored: results by what filled in the word. paired: the model and
    the 5-gram on the same words; None without a 5-gram. tokens_per_gap: number of words by their number of tokens. nfe:
    mean network evaluations of a filling.
    """

    model: ModelIdentity
    corpus: str
    revision: str | None
    fingerprint: str
    tokenizer: str
    split: str
    length: int
    gaps_asked: int
    told: str = "the number of tokens of each gap"
    candidates: int
    seed: int
    precision: str
    gaps: int
    tokens_per_gap: dict[str, int]
    sampling: dict[str, Any]
    nfe: float
    restored: dict[str, RestoredShare]
    paired: dict[str, int] | None
    examples: tuple[ClozeExample, ...]
    software: dict[str, str]

    def to_dict(self) -> dict[str, Any]:
        found = asdict(self) | {"examples": [example.to_dict() for example in self.examples]}
        del found["model"]
        return self.model.to_dict() | found
