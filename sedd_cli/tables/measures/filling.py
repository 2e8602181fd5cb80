"""Filled templates."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

from sedd_cli.errors import RequestError
from sedd_cli.evaluation.scorers.causal import CausalModel
from sedd_cli.inference.generate import as_json
from sedd_cli.inference.infill import infill
from sedd_cli.inference.plan import Job
from sedd_cli.inference.sampling import Sampling
from sedd_cli.inference.template import parse_template
from sedd_cli.system.events import Event, Filled, map_events
from sedd_cli.tables.column import Filling
from sedd_cli.tables.measures.base import Measure, ModelCache, Value
from sedd_cli.tables.row_run import RowRun


class FillingMeasure(Measure[Filling]):
    """Fills the template as `sedd infill` does."""

    def run(self, run: RowRun, column: Filling, models: ModelCache) -> Generator[Event, None, dict[str, Any]]:
        model = models.model(run)
        if isinstance(model, CausalModel):
            raise RequestError(f"{model.source} is autoregressive and cannot fill templates")
        job = Job(parse_template(column.template), column.n, run.seed)
        sampling = Sampling(column.steps, run.row.how.sampler)
        # fillings appear in the table, not while it is made
        drawn = map_events(infill(model, [job], sampling), lambda event: None if isinstance(event, Filled) else event)
        return {"fillings": [as_json(one) for one in (yield from drawn).samples]}

    def value(self, result: dict[str, Any], column: Filling, unit: str) -> Value:
        texts = [{"text": one["text"], "given": one["given"]} for one in result["fillings"]]
        if not texts:
            raise ValueError("no filling")
        return Value(None, texts=texts)
