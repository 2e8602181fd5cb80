"""What a column of a table measures: one class for each unit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from sedd_cli.errors import RequestError
from sedd_cli.recipe.build import build


@dataclass(frozen=True)
class How:
    """What a row asks of its model, where a column leaves it open."""

    sampler: str | None = None
    mode: str = "standard"
    top_p: float | None = None

    @property
    def left_to_right(self) -> bool:
        """Whether the model goes from left to right."""
        return self.sampler == "left_to_right"


@dataclass(frozen=True)
class Judge:
    """A left-to-right model: one that is loaded, or the run of a table's row (TABLE/ROW) for a seed."""

    source: str | None = None
    run: str | None = None
    seed: int = 0

    @classmethod
    def from_data(cls, data: Any, path: str) -> Judge:
        """`gpt2-large`, or `{run: table2/autoregressive, seed: 1000}`."""
        if isinstance(data, str):
            return cls(source=data)
        if not isinstance(data, Mapping) or "run" not in data:
            raise RequestError(f"{path}: expected a model, or {{run: TABLE/ROW, seed: N}}, found {data!r}")
        return build(cls, data, path)

    def to_data(self) -> Any:
        """The inverse."""
        return self.source or {"run": self.run, "seed": self.seed}


@dataclass(frozen=True)
class Column:
    """name: what it is called, and the file that its results are kept in."""

    #: The fields of How that mean something here.
    reads: ClassVar[frozenset[str]] = frozenset()

    name: str

    @property
    def reader(self) -> Judge | None:
        """What reads the texts that are measured here, if anything does."""
        return None

    def fits(self, how: How) -> bool:
        """Whether a row is measured in this column."""
        return True


@dataclass(frozen=True)
class Likelihood(Column):
    """A text. protocol: of models with scores; others have one of their own."""

    dataset: str
    split: str = "test"
    protocol: str = "sedd-paper"


@dataclass(frozen=True)
class Mauve(Column):
    """Texts completed from parts of references; the fields are those of `MauveOptions`."""

    reads: ClassVar[frozenset[str]] = frozenset({"sampler", "mode", "top_p"})

    references: str
    features: Judge
    steps: int
    split: str | None = None
    windows: bool = False
    count: int = 1000
    generations: int = 5
    prompt: int = 50
    new: int = 50
    seeds: int = 5

    @property
    def reader(self) -> Judge:
        return self.features


@dataclass(frozen=True)
class Quality(Column):
    """n samples of `length` tokens drawn in `steps` steps, and how they read to a judge.

    A model that goes from left to right takes `length` steps, and stands in that column alone.
    """

    reads: ClassVar[frozenset[str]] = frozenset({"sampler"})

    steps: int
    length: int
    judge: Judge
    n: int = 1000

    @property
    def reader(self) -> Judge:
        return self.judge

    def fits(self, how: How) -> bool:
        return not how.left_to_right or self.steps == self.length


@dataclass(frozen=True)
class Filling(Column):
    """A template, filled n times."""

    reads: ClassVar[frozenset[str]] = frozenset({"sampler"})

    template: str
    steps: int
    n: int = 1


#: What a table's values are, and so what its columns measure.
UNITS: dict[str, type[Column]] = {
    "perplexity": Likelihood,
    "bits_per_char": Likelihood,
    "mauve": Mauve,
    "generative_perplexity": Quality,
    "text": Filling,
}
