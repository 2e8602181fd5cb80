"""Evaluations during training (a quick bound, a sample) and after it (a bound, samples, an infill)."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sedd_cli.checkpoints.loaded_model import LoadedModel
from sedd_cli.checkpoints.own_text import infill_length, prompt
from sedd_cli.checkpoints.run_directory import RunDir
from sedd_cli.data.corpora import find_corpus
from sedd_cli.data.prepared import PrepareOptions, expected_splits
from sedd_cli.data.shards import Dataset
from sedd_cli.errors import DamageError, RequestError, WorkError, one_line, out_of_memory
from sedd_cli.evaluation.likelihood.evaluate import EvaluateOptions, evaluate
from sedd_cli.inference.bound import LEAST_REPLICATES, MonteCarloOptions
from sedd_cli.inference.generate import GenerateOptions, SamplingResult, as_json, generate
from sedd_cli.inference.infill import infill
from sedd_cli.inference.layout import lay_out
from sedd_cli.inference.plan import Job
from sedd_cli.inference.sampling import Sampling
from sedd_cli.inference.template import gap_between
from sedd_cli.recipe import Recipe
from sedd_cli.system.documents import read_json
from sedd_cli.system.events import Event, Sampled, Validated, Warn, map_events
from sedd_cli.system.software import recorded


def check_split(recipe: Recipe, text: PrepareOptions) -> None:
    """RequestError where a text of one's own will have no split for the report, before it is prepared."""
    if splits := expected_splits(text):
        _require_split(recipe, find_corpus(text).name, splits)


def _require_split(recipe: Recipe, corpus: str, splits: Sequence[str]) -> None:
    """RequestError where the split of the report is none of those of the corpus."""
    if recipe.report.split in splits:
        return
    ways = [f"report.split={name}" for name in ("test", "validation", "train") if name in splits][:1]
    if tuple(splits) == ("train",) and Path(recipe.data.corpus).exists() and recipe.data.hold_out == "hash":
        ways.insert(0, "data.hold_out=tail report.split=validation")
    raise RequestError(
        f"report.split: {corpus} has no split {recipe.report.split!r}, it has {', '.join(splits)}; "
        f"set {' or '.join(ways)}"
    )


def check_report(recipe: Recipe, dataset: Dataset, infilled: bool) -> None:
    """Check what the report needs of the data, before the first step; `check_recipe` has checked the rest.

    Args:
        recipe: Its report is checked.
        dataset: The prepared corpus.
        infilled: Whether the report at the end will be made; validation during training uses the split alone.

    Raises:
        RequestError: The split is missing or too short to evaluate, or the infill cannot be expressed in tokens.
    """
    _require_split(recipe, dataset.manifest.corpus, dataset.splits)
    # an exact likelihood is measured on whole blocks, a bound also on an incomplete one
    least = recipe.model.length if recipe.objective.make().causal else 1
    validated = {"validation"} & set(dataset.splits) if recipe.report.every else set()
    for name in sorted({recipe.report.split, *validated}):
        if (tokens := dataset.split(name).tokens) < least:
            raise RequestError(
                f"report.split: the split {name!r} of {dataset.manifest.corpus} has {tokens} tokens, the report needs "
                f"at least {least}"
            )
    if infilled and (job := _infill(recipe, dataset)):
        try:
            lay_out(job.template, [], dataset.tokenizer, False, job.length)
        except RequestError as error:
            raise RequestError(f"report.infill: {error}") from None


def _infill(recipe: Recipe, dataset: Dataset) -> Job | None:
    """The infill of the report; None where none is wanted, or the text has no line to cut words from."""
    gap, given = recipe.report.infill, prompt(recipe, dataset)
    if gap is None or given is None:
        return None
    return Job(gap_between(given.prefix, given.suffix), seed=recipe.seed, length=infill_length(recipe))


@dataclass(frozen=True)
class TrainReport:
    """Bounds, and the files that hold the evaluation, the samples and the infill; None for what was not wanted.

    seconds: how long the report took; None where it is an earlier one.
    """

    evaluation: Path
    bounds: dict[str, Any]
    samples: Path | None
    infill: Path | None
    model_fingerprint: str
    seconds: float | None = None

    def to_dict(self) -> dict[str, Any]:
        found: dict[str, Any] = {"model_fingerprint": self.model_fingerprint}
        found |= {"evaluation": str(self.evaluation), "bounds": self.bounds}
        found |= {} if self.seconds is None else {"seconds": round(self.seconds, 3)}
        return found | {name: str(path) for name in ("samples", "infill") if (path := getattr(self, name))}


def report(recipe: Recipe, model: LoadedModel, dataset: Dataset, run: RunDir) -> Generator[Event, None, TrainReport]:
    """Evaluate a trained model on the report's split, sample and infill, and store the results in the run."""
    wanted, step, began = recipe.report, model.facts["step"], time.perf_counter()
    files = dict[str, Path]()
    options = EvaluateOptions(wanted.split, monte_carlo=MonteCarloOptions(rel_error=wanted.rel_error))
    likelihood = yield from evaluate(model, dataset, options)
    result = likelihood.to_dict()
    evaluation = run.store_result(f"{wanted.split}-step-{step}", result, likelihood.documents())
    jobs: dict[str, Generator[Event, None, SamplingResult]] = {}
    if wanted.samples:
        jobs["samples"] = generate(model, GenerateOptions(n=wanted.samples, seed=recipe.seed))
    if job := _infill(recipe, dataset):
        jobs["infill"] = infill(model, [job], Sampling())
    for name, drawn in jobs.items():
        samples = (yield from drawn).samples
        files[name] = run.store("samples", f"{name}-step-{step}", [recorded(as_json(one)) for one in samples])
    drawn_to, seconds = (files.get("samples"), files.get("infill")), time.perf_counter() - began
    return TrainReport(evaluation, result["bounds"], *drawn_to, likelihood.model.fingerprint, seconds)


def validate(
    recipe: Recipe, model: LoadedModel, dataset: Dataset, run: RunDir, see: Callable[[Event], None]
) -> Iterator[Event]:
    """The bound on the first blocks of the validation split, and one sample, both stored in the run.

    Without a sample, for an error, there is a Warn. see: it is called with every event of both, and may raise an error
    of its own to end them.
    """
    wanted, step, began = recipe.report, model.facts["step"], time.perf_counter()
    split = "validation" if "validation" in dataset.splits else wanted.split
    monte_carlo = MonteCarloOptions(rel_error=1.0, max_nfe=LEAST_REPLICATES)
    protocol = "rigorous" if model.objective.steps is None else "discrete"
    options = EvaluateOptions(split, (protocol,), monte_carlo, baselines=False, blocks=wanted.blocks)
    result = yield from map_events(evaluate(model, dataset, options), see)
    found = result.to_dict()["bounds"][protocol]
    values = {f.name: found[f.name] for f in dataclasses.fields(Validated) if f.name in found}
    shown: list[Event] = []

    def keep(event: Event) -> None:
        see(event)
        if isinstance(event, Sampled):
            shown.append(dataclasses.replace(event, at_step=step))

    try:
        sampled = yield from map_events(generate(model, GenerateOptions(seed=recipe.seed)), keep)
        run.store("samples", f"step-{step}", [recorded(as_json(one)) for one in sampled.samples])
    except Exception as error:
        if not tolerated(error):  # the bound is there
            raise
        shown.append(Warn(f"step {step}: no sample: {one_line(str(error))}"))
    seen = Validated(step=step, split=split, seconds=time.perf_counter() - began, **values)
    run.log({"kind": "validation", **dataclasses.asdict(seen)})
    yield seen
    yield from shown


def tolerated(error: Exception) -> bool:
    """Whether training goes on where a preview has this error: of a request, of the disk, or for lack of memory."""
    return isinstance(error, RequestError | WorkError | OSError) or out_of_memory(error)


def stored_report(run: Path, split: str, step: int) -> TrainReport | None:
    """The report that a run holds for a step; None if it holds none."""
    evaluation = run / "results" / f"{split}-step-{step}.json"
    try:
        found = read_json(evaluation)
        bounds, fingerprint = found["bounds"], found["model_fingerprint"]
    except (OSError, KeyError, TypeError, DamageError):
        return None
    files = (run / "samples" / f"{name}-step-{step}.jsonl" for name in ("samples", "infill"))
    samples, infilled = (path if path.is_file() else None for path in files)
    return TrainReport(evaluation, bounds, samples, infilled, fingerprint)
