"""What a column of a table measures: one class for each unit."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Likelihood:
    """A text. protocol: of models with scores; others have one of their own. blocks: only the first so many."""

    name: str
    dataset: str
    split: str = "test"
    protocol: str = "sedd-paper"
    blocks: int | None = None


@dataclass(frozen=True)
class Mauve:
    """Texts completed from parts of references; the fields are those of `MauveOptions`. features: a model as it is
    named elsewhere, or TABLE/ROW/SEED for one that is trained here."""

    name: str
    references: str
    features: str
    split: str | None = None
    windows: bool = False
    count: int = 1000
    generations: int = 5
    prompt: int = 50
    new: int = 50
    seeds: int = 5
    steps: int | None = None


@dataclass(frozen=True)
class Quality:
    """n samples of `length` tokens drawn in `steps` steps, and how they read to a judge, named as `Mauve.features`.

    A model that goes from left to right takes `length` steps, and stands in that column alone.
    """

    name: str
    steps: int
    length: int
    judge: str
    n: int = 1000


@dataclass(frozen=True)
class Filling:
    """A template, filled n times."""

    name: str
    template: str
    n: int = 1
    steps: int | None = None


Column = Likelihood | Mauve | Quality | Filling

#: What a table's values are, and so what its columns measure.
UNITS: dict[str, type[Column]] = {
    "perplexity": Likelihood,
    "bits_per_char": Likelihood,
    "mauve": Mauve,
    "generative_perplexity": Quality,
    "text": Filling,
}


@dataclass(frozen=True)
class How:
    """What a row asks of its model, where a column leaves it open. sampler: None for the recipe's."""

    sampler: str | None = None
    mode: str = "standard"
    top_p: float | None = None
