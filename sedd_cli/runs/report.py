"""What `train` shows of the model: on the way a quick bound and a sample, at the end a bound, samples and an infill."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator

from sedd_cli.errors import RequestError
from sedd_cli.recipe import Recipe
from sedd_cli.runs.estimate import LEAST_REPLICATES, Drawing
from sedd_cli.runs.evaluate import EvaluateOptions, evaluate
from sedd_cli.runs.events import Evaluated, Event, Sampled, Validated, Warn
from sedd_cli.runs.generate import GenerateOptions, as_json, generate, prompt_tokens
from sedd_cli.runs.model import Model
from sedd_cli.runs.rundir import RunDir
from sedd_cli.text.shards import Dataset


def check_report(recipe: Recipe, dataset: Dataset) -> None:
    """What cannot be reported should be refused before training, not after."""
    if recipe.report.split not in dataset.splits:
        raise RequestError(
            f"report.split: {dataset.manifest.corpus} has no split {recipe.report.split!r}, "
            f"it has {', '.join(dataset.splits)}"
        )
    if wanted := recipe.report.infill:
        length = recipe.model.length if wanted.length is None else wanted.length
        prompts = sum(len(prompt_tokens(dataset.tokenizer, text)) for text in (wanted.prefix, wanted.suffix))
        if not prompts < length <= recipe.model.length:
            raise RequestError(
                f"report.infill: prompts of {prompts} tokens in a length of {length} "
                f"(the model allows {recipe.model.length}) leave nothing to fill"
            )


def report(recipe: Recipe, model: Model, dataset: Dataset, run: RunDir) -> Iterator[Event]:
    """Bound on the report's split, samples and an infill from a trained model, stored in the run."""
    wanted, found = recipe.report, {}
    for event in evaluate(model, dataset, EvaluateOptions(wanted.split, drawing=Drawing(rel_error=wanted.rel_error))):
        if isinstance(event, Evaluated):
            stored = run.store("results", f"{wanted.split}-step-{model.facts['step']}", event.result)
            found["evaluation"] = str(stored)
            found["bounds"] = event.result["bounds"]
        yield event
    jobs = {}
    if wanted.samples:
        jobs["samples"] = GenerateOptions(n=wanted.samples, seed=recipe.seed)
    if wanted.infill:
        jobs["infill"] = GenerateOptions(seed=recipe.seed, **dataclasses.asdict(wanted.infill))
    for name, options in jobs.items():
        kept = []
        for event in generate(model, options):
            if isinstance(event, Sampled):
                kept.append(as_json(event))
            yield event
        found[name] = str(run.store("samples", f"{name}-step-{model.facts['step']}", kept))
    return found


def validate(recipe: Recipe, model: Model, dataset: Dataset, run: RunDir) -> Iterator[Event]:
    """The rigorous bound on the first blocks of the validation split, and one sample, both stored in the run."""
    wanted, step, began = recipe.report, model.facts["step"], time.perf_counter()
    split = "validation" if "validation" in dataset.splits else wanted.split
    drawing = Drawing(rel_error=1.0, max_nfe=LEAST_REPLICATES)
    options = EvaluateOptions(split, ("rigorous",), drawing, yardsticks=False, blocks=wanted.blocks)
    for event in evaluate(model, dataset, options):
        if isinstance(event, Warn):
            continue  # that the bound is rough is known
        if isinstance(event, Evaluated):
            found = event.result["bounds"]["rigorous"]
            kept = {f.name: found[f.name] for f in dataclasses.fields(Validated) if f.name in found}
            seen = Validated(step=step, split=split, seconds=time.perf_counter() - began, **kept)
            run.log({"kind": "validation", **dataclasses.asdict(seen)})
            yield seen
    kept = []
    for event in generate(model, GenerateOptions(seed=recipe.seed)):
        if isinstance(event, Sampled):
            kept.append(as_json(event))
            yield dataclasses.replace(event, at_step=step)
    run.store("samples", f"step-{step}", kept)
