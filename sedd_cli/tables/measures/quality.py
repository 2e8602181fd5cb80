"""Generative perplexity of samples."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import torch

from sedd_cli.checkpoints.loaded_model import LoadedModel
from sedd_cli.errors import RequestError
from sedd_cli.evaluation.judge import Samples, judge
from sedd_cli.evaluation.scorers.causal import CausalModel
from sedd_cli.evaluation.scorers.continuation import continue_prompts
from sedd_cli.evaluation.sweep import SweepOptions, sweep
from sedd_cli.inference.generate import GenerateOptions, generate
from sedd_cli.inference.resumable import resumable_samples
from sedd_cli.system.events import Event, Finished, Progress, Sampled
from sedd_cli.system.locks import file_lock
from sedd_cli.tables.column import Quality
from sedd_cli.tables.measures.base import Desk, Measure, Value, check_direction
from sedd_cli.tables.row_run import RowRun

#: Sequences that a causal model of transformers draws at once.
AT_ONCE = 16


class QualityMeasure(Measure):
    """A point of `sedd eval --sweep`, or as many samples of a model that goes from left to right.

    Samples are kept beside the runs, by what they were drawn from, so that tables share them.
    """

    def run(self, place: RowRun, column: Quality, desk: Desk) -> Generator[Event, None, dict[str, Any]]:
        model, reader = desk.model(place), desk.reader(place, column)
        check_direction(place, model)
        folder = place.runs / "samples" / f"{model.fingerprint[:16]}-{column.length}-{place.seed}"
        if model.exact:
            sampled = yield from _left_to_right(model, column, place.seed, folder)
            return (yield from judge(reader, Samples.of(sampled, model.tokenizer), False)).to_dict()
        sampler = place.row.how.sampler or "tweedie"
        options = SweepOptions(folder, (column.steps,), (sampler,), column.n, column.length, place.seed)
        for event in sweep(model, reader, options):
            if isinstance(event, Finished):
                points = event.result["points"]
                return next(p for p in points if (p["sampler"], p["steps"]) == (sampler, column.steps))
            yield event
        raise AssertionError("a sweep ends in its points")

    def common(self, result: dict[str, Any]) -> list[Any]:
        return [result["judge_fingerprint"], result["judge_precision"]]

    def value(self, result: dict[str, Any], column: Quality, unit: str) -> Value:
        found = result["per_sequence"]
        return Value(float(found["perplexity"]), found["error"] or 0.0)


def _left_to_right(
    model: LoadedModel | CausalModel, column: Quality, seed: int, folder: Path
) -> Generator[Event, None, list[Sampled]]:
    def draw(first: int) -> Iterator[Event]:
        if isinstance(model, LoadedModel):
            return generate(model, GenerateOptions(column.n - first, column.length, seed=seed, first=first))
        return _continued(model, column, seed, first)

    samples = folder / "samples"
    try:
        samples.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RequestError(f"cannot write to {folder}: {error.strerror}") from None
    with file_lock(folder / ".lock", f"another process is at work in {folder}"):
        return (yield from resumable_samples(samples / "left_to_right.jsonl", column.n, draw, "left to right"))


def _continued(model: CausalModel, column: Quality, seed: int, first: int) -> Iterator[Event]:
    """Samples of a causal model of transformers from nothing, under its own law: end-of-text is a token like others."""
    for start in range(first, column.n, AT_ONCE):
        numbers = torch.arange(start, min(start + AT_ONCE, column.n))
        nothing = torch.empty(len(numbers), 0, dtype=torch.int64)
        drawn = continue_prompts(model, nothing, column.length, 1.0, 1.0, seed, numbers, ends=True).tolist()
        for number, tokens in zip(numbers.tolist(), drawn, strict=True):
            text = model.decode(tokens)
            yield Sampled(number, text, tokens, column.length, 0.0, seed=seed, sampler="left_to_right")
        yield Progress("sampling", int(numbers[-1]) + 1, column.n, "samples")
