"""Generative perplexity of samples."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import torch

from sedd_cli.recipe.column import Quality
from sedd_cli.runs.events import Event, Finished, Progress, Sampled
from sedd_cli.runs.exact import ExactModel
from sedd_cli.runs.generate import GenerateOptions, generate
from sedd_cli.runs.judge import Samples, judge
from sedd_cli.runs.model import Model
from sedd_cli.runs.sweep import SweepOptions, sweep
from sedd_cli.runs.table.measures.base import Desk, Measure, Value, reader_source
from sedd_cli.runs.table.place import Place

#: Sequences that a causal model of transformers draws at once.
AT_ONCE = 16


class QualityMeasure(Measure):
    """A point of `sedd eval --sweep`, or of as many samples of a model that goes from left to right."""

    def run(self, place: Place, column: Quality, desk: Desk) -> Generator[Event, None, dict[str, Any]]:
        model, reader = desk.model(place), desk.reader(reader_source(place, column, column.judge))
        if model.exact:
            samples = yield from _left_to_right(model, column, place.seed)
            return (yield from judge(reader, samples, False))
        options = SweepOptions(
            # samples of other weights are left alone
            place.folder / f"samples-{model.fingerprint[:8]}",
            (column.steps,),
            (place.row.how.sampler or "tweedie",),
            column.n,
            column.length,
            place.seed,
        )
        for event in sweep(model, reader, options):
            if isinstance(event, Finished):
                asked = (options.samplers[0], column.steps)
                return next(p for p in event.result["points"] if (p["sampler"], p["steps"]) == asked)
            yield event
        raise AssertionError("a sweep ends in its points")

    def value(self, result: dict[str, Any], column: Quality, unit: str) -> Value:
        found = result["per_sequence"]
        return Value(float(found["perplexity"]), found["error"] or 0.0)


def _left_to_right(model: Model | ExactModel, column: Quality, seed: int) -> Generator[Event, None, Samples]:
    if isinstance(model, Model):
        drawn = []
        for event in generate(model, GenerateOptions(column.n, column.length, seed=seed)):
            if isinstance(event, Sampled):
                drawn.append(event)
            else:
                yield event
        return Samples.of(drawn, model.tokenizer)
    tokens: list[list[int]] = []
    while len(tokens) < column.n:
        numbers = torch.arange(len(tokens), min(len(tokens) + AT_ONCE, column.n))
        nothing = torch.empty(len(numbers), 0, dtype=torch.int64)
        tokens += model.causal.continue_(nothing, column.length, 1.0, 1.0, seed, numbers).tolist()
        yield Progress("sampling", len(tokens), column.n, "samples")
    texts = [model.causal.decode(row) for row in tokens]
    return Samples(texts, list(tokens), model.tokenizer, (column.length,) * column.n, "float64")
