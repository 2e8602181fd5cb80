"""MAUVE of completed prompts."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

from sedd_cli.evaluation.mauve.job import mauve
from sedd_cli.evaluation.mauve.options import MauveOptions
from sedd_cli.system.events import Event, Finished
from sedd_cli.tables.column import Mauve
from sedd_cli.tables.measures.base import Desk, Measure, Value, check_direction
from sedd_cli.tables.row_run import RowRun


class MauveMeasure(Measure):
    """As `sedd mauve`; the error is the spread over the seeds of k-means."""

    def run(self, place: RowRun, column: Mauve, desk: Desk) -> Generator[Event, None, dict[str, Any]]:
        model, how = desk.model(place), place.row.how
        check_direction(place, model)
        given = {} if model.exact else {"steps": column.steps, "sampler": how.sampler}
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
            seed=place.seed,
            **given,
        )
        for event in mauve(model, options, reader=desk.reader(place, column)):
            if isinstance(event, Finished):
                return event.result
            yield event
        raise AssertionError("a comparison ends in its result")

    def common(self, result: dict[str, Any]) -> list[Any]:
        return [result["references"]["fingerprint"], result["features"]["fingerprint"]]

    def value(self, result: dict[str, Any], column: Mauve, unit: str) -> Value:
        return Value(float(result["mauve"]), float(result["mauve_std"]))
