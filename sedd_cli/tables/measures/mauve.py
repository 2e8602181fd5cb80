"""MAUVE of completed prompts."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

from sedd_cli.evaluation.mauve.job import mauve
from sedd_cli.evaluation.mauve.options import MauveOptions
from sedd_cli.system.events import Event
from sedd_cli.tables.column import Mauve
from sedd_cli.tables.measures.base import Measure, ModelCache, Value, check_sampler
from sedd_cli.tables.row_run import RowRun


class MauveMeasure(Measure[Mauve]):
    """Computes MAUVE as `sedd mauve` does. The error is the standard deviation over the seeds of k-means."""

    def run(self, run: RowRun, column: Mauve, models: ModelCache) -> Generator[Event, None, dict[str, Any]]:
        model, how = models.model(run), run.row.how
        check_sampler(run, model)
        steps = {} if model.exact else {"steps": column.steps, "sampler": how.sampler}
        options = MauveOptions(
            references=column.references,
            split=column.split,
            windows=column.windows,
            mode=how.mode,
            count=column.count,
            generations=column.generations,
            prompt=column.prompt,
            new=column.new,
            seeds=column.seeds,
            top_p=how.top_p,
            seed=run.seed,
            **steps,
        )
        return (yield from mauve(model, options, reader=models.scorer(run, column))).to_dict()

    def common(self, result: dict[str, Any]) -> list[Any]:
        return [result["references"]["fingerprint"], result["features"]["fingerprint"]]

    def value(self, result: dict[str, Any], column: Mauve, unit: str) -> Value:
        return Value(float(result["mauve"]), float(result["mauve_std"]))
