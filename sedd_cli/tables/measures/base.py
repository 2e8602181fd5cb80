"""The interface of a measurement, its value in a table, and the models that are loaded."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Generator
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from sedd_cli.checkpoints.load import open_model
from sedd_cli.checkpoints.loaded_model import LoadedModel
from sedd_cli.errors import RequestError
from sedd_cli.evaluation.scorers.causal import CausalModel
from sedd_cli.evaluation.scorers.pretrained import is_causal, load_exact
from sedd_cli.evaluation.scorers.scorer import Scorer, load_scorer
from sedd_cli.system.events import Event
from sedd_cli.tables.column import Column
from sedd_cli.tables.row_run import RowRun

C = TypeVar("C", bound=Column)


@dataclass(frozen=True)
class Value:
    """A number with its standard error, or texts.

    how: how it was measured, if not as the column prescribes. sign: ≤ for an upper
    bound, ≈ for an estimate of a likelihood that is none, else empty. texts:
    {"text", "given"} of each text; then there is no number. entropy, marks: beside a generative perplexity, the unigram
    entropy in nats and the marks of the samples (`evaluation.controls`).
    """

    value: float | None
    error: float = 0.0
    how: str = ""
    sign: str = ""
    texts: list[dict[str, Any]] | None = None
    entropy: float | None = None
    marks: tuple[str, ...] = ()


class ModelCache:
    """The loaded models: the one being measured, and every judge. rel_error, max_nfe: precision of likelihoods."""

    def __init__(self, device: str, rel_error: float, max_nfe: int):
        self.device, self.rel_error, self.max_nfe = device, rel_error, max_nfe
        self._models: dict[str, LoadedModel | CausalModel] = {}
        self._scorers: dict[str, Scorer] = {}

    def model(self, run: RowRun) -> LoadedModel | CausalModel:
        """The model of a row run. Only the last one stays loaded."""
        source = run.source
        assert source is not None, "quoted rows are not measured"
        if source not in self._models:
            ours = run.training is not None or not is_causal(source)
            self._models = {source: (open_model if ours else load_exact)(source, self.device)}
        return self._models[source]

    def scorer(self, run: RowRun, column: Column) -> Scorer:
        """The model that scores a row's texts in a column that has a scorer."""
        trained = run.scorer(column)
        source = str(trained.folder) if trained else column.scorer and column.scorer.source
        assert source is not None, f"no model scores texts in {column.name}"
        if source not in self._scorers:
            self._scorers[source] = load_scorer(source, self.device)
        return self._scorers[source]


def check_sampler(run: RowRun, model: LoadedModel | CausalModel) -> None:
    """Raise RequestError unless the row's sampler is left_to_right exactly if the model is autoregressive."""
    if model.exact != run.row.how.left_to_right:
        kind = "autoregressive" if model.exact else "not autoregressive"
        needed = "needs" if model.exact else "excludes"
        raise RequestError(f"row {run.row.name}: {model.source} is {kind}, which {needed} how.sampler: left_to_right")


class Measure(ABC, Generic[C]):
    """How a kind of column is measured. C is its class of column."""

    @abstractmethod
    def run(self, run: RowRun, column: C, models: ModelCache) -> Generator[Event, None, dict[str, Any]]:
        """Measure a row in a column. Returns the result document; raises RequestError if the model cannot do it."""

    def is_precise(self, result: dict[str, Any], rel_error: float) -> bool:
        """Whether a result does for a request of this relative error."""
        return True

    def common(self, result: dict[str, Any]) -> list[Any]:
        """What must be equal in all rows of a column so that they compare."""
        return []

    @abstractmethod
    def value(self, result: dict[str, Any], column: C, unit: str) -> Value:
        """The value of a result document. Raises KeyError, TypeError or ValueError for any other document."""
