"""Generative perplexity of samples."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import torch

from sedd_cli.checkpoints.loaded_model import LoadedModel
from sedd_cli.errors import unwritable
from sedd_cli.evaluation.controls import ControlSet, comparable, compare, own_corpus
from sedd_cli.evaluation.judge import JudgeResult, Samples, judge
from sedd_cli.evaluation.scorers.causal import CausalModel
from sedd_cli.evaluation.scorers.continuation import continue_prompts
from sedd_cli.evaluation.sweep import SweepOptions, sampler_of_point, sweep
from sedd_cli.inference.generate import GenerateOptions, generate
from sedd_cli.inference.resumable import resumable_samples
from sedd_cli.inference.sampling import SAMPLES_VERSION
from sedd_cli.recipe.part import TypedSampler
from sedd_cli.system.events import Event, Progress, Sampled
from sedd_cli.system.locks import file_lock
from sedd_cli.tables.column import Quality
from sedd_cli.tables.measures.base import Measure, ModelCache, Value, check_sampler
from sedd_cli.tables.row_run import RowRun

#: Sequences that a causal model of transformers draws in one batch.
BATCH = 16


class QualityMeasure(Measure[Quality]):
    """A point of a sweep, or as many samples of an autoregressive model, beside real text and controls.

    Samples are stored beside the runs, by model, length, seed and version of the draws, so that tables share them.
    """

    def run(self, run: RowRun, column: Quality, models: ModelCache) -> Generator[Event, None, dict[str, Any]]:
        model, scorer = models.model(run), models.scorer(run, column)
        check_sampler(run, model)
        corpus = own_corpus(model) or own_corpus(scorer)
        named = f"{model.fingerprint[:16]}-{column.length}-{run.seed}-v{SAMPLES_VERSION}"
        folder = run.runs / "samples" / named
        if isinstance(model, CausalModel) or model.exact:
            sampled = yield from _left_to_right(model, column, run.seed, folder)
            samples, beside = Samples.of(sampled, model.tokenizer), None
            if corpus is not None:
                samples = comparable(samples, corpus)
                beside = yield from compare(scorer, samples, corpus, run.seed)
            judged = yield from judge(scorer, samples)
            return judged.to_dict() | _beside(judged, beside)
        sampler = run.row.how.sampler or "tweedie"
        options = SweepOptions(folder, (column.steps,), (sampler,), column.n, column.length, run.seed)
        result = yield from sweep(model, scorer, options, corpus)
        place = sampler_of_point(TypedSampler.read(sampler)), column.steps, None
        point = next(p for p in result.points if p.place == place)
        return point.to_dict() | _beside(point.judged, result.comparison)

    def common(self, result: dict[str, Any]) -> list[Any]:
        return [result["judge_fingerprint"], result["judge_precision"]]

    def value(self, result: dict[str, Any], column: Quality, unit: str) -> Value:
        found = result["per_sequence"]
        entropy, marks = result.get("unigram_entropy", {}).get("nats"), tuple(result.get("marks", ()))
        return Value(float(found["perplexity"]), found["error"] or 0.0, entropy=entropy, marks=marks)


def _beside(judged: JudgeResult, beside: ControlSet | None) -> dict[str, Any]:
    """What a result document holds of the controls."""
    return {} if beside is None else {"marks": list(beside.marks(judged)), "comparison": beside.to_dict()}


def _left_to_right(
    model: LoadedModel | CausalModel, column: Quality, seed: int, folder: Path
) -> Generator[Event, None, list[Sampled]]:
    """Samples of an autoregressive model, continued from those that are stored in `folder`."""

    def draw(first: int) -> Iterator[Event]:
        if isinstance(model, LoadedModel):
            return generate(model, GenerateOptions(column.n - first, column.length, seed=seed, first=first))
        return _unconditional(model, column, seed, first)

    samples = folder / "samples"
    try:
        samples.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise unwritable(folder, error) from None
    with file_lock(folder / ".lock", f"another process is working in {folder}"):
        return (yield from resumable_samples(samples / "left_to_right.jsonl", column.n, draw, "left to right"))


def _unconditional(model: CausalModel, column: Quality, seed: int, first: int) -> Iterator[Event]:
    """Samples of a causal model of transformers without a prompt. End-of-text does not end a sample."""
    for start in range(first, column.n, BATCH):
        numbers = torch.arange(start, min(start + BATCH, column.n))
        empty = torch.empty(len(numbers), 0, dtype=torch.int64)
        drawn = continue_prompts(model, empty, column.length, 1.0, 1.0, seed, numbers, ends=True).tolist()
        for number, tokens in zip(numbers.tolist(), drawn, strict=True):
            text = model.decode(tokens)
            yield Sampled(number, text, tokens, column.length, 0.0, seed=seed, sampler="left_to_right")
        yield Progress("sampling", int(numbers[-1]) + 1, column.n, "samples")
