"""What every kind of measurement can do, and what is at hand while one is taken."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Generator
from dataclasses import dataclass
from typing import Any

from sedd_cli.checkpoints.load import open_model
from sedd_cli.checkpoints.loaded_model import LoadedModel
from sedd_cli.errors import RequestError
from sedd_cli.evaluation.scorers.causal import CausalModel
from sedd_cli.evaluation.scorers.pretrained import is_causal, load_exact
from sedd_cli.evaluation.scorers.scorer import Scorer, load_scorer
from sedd_cli.system.events import Event
from sedd_cli.tables.column import Column
from sedd_cli.tables.row_run import RowRun


@dataclass(frozen=True)
class Value:
    """A number with the error of its measurement, or a bound on it from above; `how` it was measured, where that is not
    as its column says.

    texts: where a column asks for texts, {"text", "given"} of each; then there is no number.
    """

    value: float | None
    error: float = 0.0
    how: str = ""
    bound: bool = False
    texts: list[dict[str, Any]] | None = None


class Desk:
    """Models at hand: that of the row in work, and every judge so far. rel_error, max_nfe: of a likelihood."""

    def __init__(self, device: str, rel_error: float, max_nfe: int):
        self.device, self.rel_error, self.max_nfe = device, rel_error, max_nfe
        self._models: dict[str, LoadedModel | CausalModel] = {}
        self._readers: dict[str, Scorer] = {}

    def model(self, place: RowRun) -> LoadedModel | CausalModel:
        """The model of a place, the last one that was asked for being kept."""
        if (source := place.source) not in self._models:
            ours = place.training is not None or not is_causal(source)
            self._models = {source: (open_model if ours else load_exact)(source, self.device)}
        return self._models[source]

    def reader(self, place: RowRun, column: Column) -> Scorer:
        """What reads a row's texts in a column that has a reader."""
        trained = place.reader(column)
        source = str(trained.folder) if trained else column.reader.source
        if source not in self._readers:
            self._readers[source] = load_scorer(source, self.device)
        return self._readers[source]


def check_direction(place: RowRun, model: LoadedModel | CausalModel) -> None:
    """RequestError where a row says that its model goes from left to right, and it does not, or the other way round."""
    if model.exact != place.row.how.left_to_right:
        says = "goes from left to right" if place.row.how.left_to_right else "denoises"
        raise RequestError(f"the row {place.row.name} says that its model {says}: {model.source} does not")


class Measure(ABC):
    """A kind of column."""

    @abstractmethod
    def run(self, place: RowRun, column: Column, desk: Desk) -> Generator[Event, None, dict[str, Any]]:
        """Measure a row in a column; returns the result as it is kept. RequestError where that cannot be done."""

    def common(self, result: dict[str, Any]) -> list[Any]:
        """What has to be the same in all rows of a column, for them to compare."""
        return []

    @abstractmethod
    def value(self, result: dict[str, Any], column: Column, unit: str) -> Value:
        """What a result says in the table; KeyError, TypeError or ValueError for what is no such result."""
