"""Perplexity or bits per character of a dataset."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

from sedd_cli.checkpoints.loaded_model import LoadedModel
from sedd_cli.core.protocols import sign
from sedd_cli.evaluation.likelihood.evaluate import EvaluateOptions, evaluate
from sedd_cli.evaluation.likelihood.texts import Text, prepared_for
from sedd_cli.inference.bound import MonteCarloOptions
from sedd_cli.system.distributed import Dist
from sedd_cli.system.events import Event
from sedd_cli.tables.column import Likelihood
from sedd_cli.tables.measures.base import Measure, ModelCache, Value
from sedd_cli.tables.row_run import RowRun


class LikelihoodMeasure(Measure[Likelihood]):
    """Evaluates as `sedd eval` does, under the column's protocol, or under the only one that the objective has."""

    def run(self, run: RowRun, column: Likelihood, models: ModelCache) -> Generator[Event, None, dict[str, Any]]:
        model = models.model(run)
        dist = Dist(0, 1, model.device)
        dataset = yield from prepared_for(model, Text(column.dataset), dist)
        discrete = isinstance(model, LoadedModel) and not model.exact and model.objective.steps is not None
        options = EvaluateOptions(
            column.split,
            ("discrete" if discrete else column.protocol,),
            # with draws of its own for each seed, so that their spread contains the error of the draws
            MonteCarloOptions(rel_error=models.rel_error, max_nfe=models.max_nfe, seed=run.seed),
            baselines=False,
            keep=True,
        )
        return (yield from evaluate(model, dataset, options, dist)).to_dict()

    def is_precise(self, result: dict[str, Any], rel_error: float) -> bool:
        """Whether its bound has this error, or was drawn for one as small; exact values have none."""
        return all(
            min(bound.get("rel_error_asked", 0.0), bound.get("rel_error", 0.0)) <= rel_error
            for bound in result["bounds"].values()
        )

    def common(self, result: dict[str, Any]) -> list[Any]:
        return [result["fingerprint"]]

    def value(self, result: dict[str, Any], column: Likelihood, unit: str) -> Value:
        ((protocol, bound),) = result["bounds"].items()
        exact = "estimator" not in result
        how = "exact" if exact else "" if protocol == column.protocol else protocol
        return Value(float(bound[unit]), bound[f"{unit}_error"] or 0.0, how, "" if exact else sign(protocol))
