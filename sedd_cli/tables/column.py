"""What a column of a table measures: one class of column for each unit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from sedd_cli.errors import RequestError
from sedd_cli.recipe.build import build


@dataclass(frozen=True)
class RowSampling:
    """How a row generates text, where the column leaves it open."""

    sampler: str | None = None
    mode: str = "standard"
    top_p: float | None = None

    @property
    def left_to_right(self) -> bool:
        """Whether the model is autoregressive."""
        return self.sampler == "left_to_right"


@dataclass(frozen=True)
class Judge:
    """An autoregressive model that scores texts: a model to load, or the run of a table's row for a seed.

    source: as `--model`. run: TABLE/ROW.
    """

    source: str | None = None
    run: str | None = None
    seed: int = 0

    @classmethod
    def from_data(cls, data: Any, path: str) -> Judge:
        """From `gpt2-large` or `{run: table2/autoregressive, seed: 1000}`."""
        if isinstance(data, str):
            return cls(source=data)
        if not isinstance(data, Mapping) or "run" not in data:
            raise RequestError(f"{path}: expected a model, or {{run: TABLE/ROW, seed: N}}, found {data!r}")
        return build(cls, data, path)

    def to_data(self) -> Any:
        """The inverse of `from_data`."""
        return self.source or {"run": self.run, "seed": self.seed}


@dataclass(frozen=True)
class Column:
    """name: the heading, and the name of the file of its results."""

    #: The fields of RowSampling that apply to this kind of column.
    uses: ClassVar[frozenset[str]] = frozenset()

    name: str

    @property
    def scorer(self) -> Judge | None:
        """The model that scores the generated texts, or gives their features; None if there is none."""
        return None

    def applies_to(self, how: RowSampling) -> bool:
        """Whether a row is measured in this column."""
        return True


@dataclass(frozen=True)
class Likelihood(Column):
    """The likelihood of a split of a dataset.

    protocol: for models with scores. Other objectives have a protocol of their own.
    """

    dataset: str
    split: str = "test"
    protocol: str = "sedd-paper"


@dataclass(frozen=True)
class Mauve(Column):
    """MAUVE of completed prompts. The fields are those of `MauveOptions`."""

    uses: ClassVar[frozenset[str]] = frozenset({"sampler", "mode", "top_p"})

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
    def scorer(self) -> Judge:
        return self.features


@dataclass(frozen=True)
class Quality(Column):
    """Generative perplexity of n samples of `length` tokens drawn in `steps` steps.

    An autoregressive model takes `length` steps, so it is measured in that column alone.
    """

    uses: ClassVar[frozenset[str]] = frozenset({"sampler"})

    steps: int
    length: int
    judge: Judge
    n: int = 1000

    @property
    def scorer(self) -> Judge:
        return self.judge

    def applies_to(self, how: RowSampling) -> bool:
        return not how.left_to_right or self.steps == self.length


@dataclass(frozen=True)
class Filling(Column):
    """A template that is filled n times."""

    uses: ClassVar[frozenset[str]] = frozenset({"sampler"})

    template: str
    steps: int
    n: int = 1


#: The unit of a table's values → the class of its columns.
UNITS: dict[str, type[Column]] = {
    "perplexity": Likelihood,
    "bits_per_char": Likelihood,
    "mauve": Mauve,
    "generative_perplexity": Quality,
    "text": Filling,
}
