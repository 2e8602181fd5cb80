"""The result of a MAUVE comparison, and the JSON document it becomes."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from sedd_cli.evaluation.diversity import Diversity


@dataclass(frozen=True)
class MauveScore:
    """MAUVE, the mean of `values`, one for each seed of k-means, and their standard deviation (n − 1)."""

    mauve: float
    mauve_std: float
    values: list[float]
    clusters: int
    frontier_integral: float


@dataclass(frozen=True)
class ReferenceFacts:
    """Which references were used. short, unknown: how many were skipped as too short or not expressible."""

    source: str
    split: str | None
    fingerprint: str
    count: int
    short: int
    unknown: int


@dataclass(frozen=True)
class GenerationFacts:
    """How many texts were generated, and how many of them from each reference."""

    count: int
    of_each: int


@dataclass(frozen=True)
class FeatureFacts:
    """The model whose hidden states are compared.

    changed_length: texts of each side whose number of tokens differs in its tokenizer.
    """

    model: str
    fingerprint: str
    changed_length: dict[str, int]


@dataclass(frozen=True)
class DiversityFacts:
    """Diversity of the references and of the first generation from each, in the writer's tokens.

    marks: those of the generations, by the rule of `evaluation.controls`.
    """

    references: Diversity
    generations: Diversity
    marks: list[str]


@dataclass(frozen=True)
class MauveResult:
    """MAUVE of generated against real texts, with everything needed to repeat the measurement."""

    score: MauveScore
    mode: str
    prompt: int
    new: int
    references: ReferenceFacts
    generations: GenerationFacts
    model: str
    seed: int
    sampler: dict[str, Any]
    precision: str
    features: FeatureFacts
    software: dict[str, str]
    diversity: DiversityFacts

    def to_dict(self) -> dict[str, Any]:
        found = asdict(self)
        return found.pop("score") | found
