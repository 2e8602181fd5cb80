"""Infilling of many templates from a file, with results stored as they come and shown in the order of the file."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Generator, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sedd_cli.checkpoints.loaded_model import LoadedModel
from sedd_cli.inference.batch.lines import JobLine
from sedd_cli.inference.batch.planned import Plans
from sedd_cli.inference.batch.stored import Filling, StoredFillings
from sedd_cli.inference.generate import as_json
from sedd_cli.inference.infill import fill_plans, in_turn, next_plans
from sedd_cli.inference.resumable import stored, writing
from sedd_cli.inference.sampling import SAMPLES_VERSION, Sampling
from sedd_cli.recipe.outside import code_of
from sedd_cli.system.events import Event, Filled, Note, Warn, expand_events
from sedd_cli.system.files import is_stream


@dataclass(frozen=True)
class RefusedLine:
    """A line that has no job, and why."""

    line: int
    reason: str


@dataclass(frozen=True)
class JobsResult:
    """The fillings of a file of jobs.

    Attributes:
        model: The model.
        lines: Number of lines with or without a job.
        fillings: Number of fillings in all.
        from_before: How many of them were stored before.
        refused: The lines that have no job.
        warnings: Warnings about the other lines.
        samples: The records of all fillings, sorted by line, number and candidate.
    """

    model: LoadedModel
    lines: int
    fillings: int
    from_before: int
    refused: list[RefusedLine]
    warnings: list[str]
    samples: list[dict[str, Any]]

    def to_dict(self) -> dict[str, Any]:
        counts = {"lines": self.lines, "fillings": self.fillings, "from_before": self.from_before}
        refused = [dataclasses.asdict(one) for one in self.refused]
        found = {**self.model.identity, **counts, "refused": refused}
        return found | {"warnings": self.warnings, "samples": self.samples}


def fill_jobs(
    model: LoadedModel,
    lines: Iterable[JobLine],
    sampling: Sampling,
    every: bool,
    out: Path | None,
    resume: bool,
    watch: bool,
    keep: bool = True,
    asked: Mapping[str, Any] | None = None,
) -> Generator[Event, None, JobsResult]:  # fmt: skip
    """Fill every line that has a job; results are yielded in the order of the lines.

    They are appended to `out` as JSON lines as they finish; at the end the file is put into the order of the lines.
    Lines are read and planned as they are filled, so that the first results come early and memory does not grow with
    their number. At a PAUSE, those that have arrived are filled. A result depends on its own line and the sampling
    alone, not on other lines, their order, or when they arrive. Refused lines give a Warn with the reason, those read
    together one for each reason.

    Args:
        resume: Results of the same jobs in `out` are not drawn again. RequestError where `out` holds results of another
            model or of other options.
        keep: Return the records that `out` held before, too.
        asked: Other options that the results depend on, which they name.
    """
    sampling.resolve(model)  # an error that concerns all lines comes before any work
    setting = _setting(model, sampling, {**(asked or {}), "all": every})
    with writing(out):
        there = None if out is None or is_stream(out) else StoredFillings(out, every, fresh=not resume)
        if there is not None:
            there.check(setting)
        plans = Plans(model, sampling, lines, every, there, keep, setting)
        # small files are planned at once: their bars have a total, and all lines are checked before any is filled
        ahead, whole = next_plans(iter(plans))
        yield from plans.news()
        if plans.before:
            yield Note(f"{plans.before} of {plans.wanted} fillings are stored already" + ("" if whole else " so far"))
        if there is not None:
            there.tidy()
        filling = fill_plans(model, ahead if whole else itertools.chain(ahead, [None], plans), every, watch, keep)
        del ahead  # a stream is not held
        if out is not None and there is None:  # what is written to a pipe stays in its order
            filling = stored(in_turn(filling, plans.issued, _name, every), out)
        elif out is not None:
            filling = in_turn(stored(filling, out, "a" if resume else "w"), plans.issued, _name, every)
        else:
            filling = in_turn(filling, plans.issued, _name, every)
        found = yield from expand_events(filling, lambda event: (*plans.news(), event))
        if there is not None and plans.wanted:
            there.arrange()
            yield from map(Warn, there.remarks())
    refused = [RefusedLine(number, reason) for number, reason in sorted(plans.refused)]
    samples = (there.kept if there else []) + [as_json(one) for one in found]
    samples.sort(key=lambda one: (one["job"]["line"], one["index"], one["candidate"]))
    return JobsResult(model, plans.lines, plans.wanted, plans.before, refused, plans.remarks, samples)


def _setting(model: LoadedModel, sampling: Sampling, asked: Mapping[str, Any]) -> dict[str, Any]:
    """What a result holds about its model and the options that were given."""
    usual = Sampling()
    given = {name: value for name, value in dataclasses.asdict(sampling).items() if value != getattr(usual, name)}
    given.pop("batch", None)  # it changes no result
    given |= code_of(type(sampling.resolve(model).sampler))
    return {
        "model": {
            "source": model.source,
            "fingerprint": model.fingerprint,
            "step": model.facts.get("step"),
            "precision": model.precision,
            "tokenizer": model.tokenizer.fingerprint if model.tokenizer else None,
        },
        "options": {**given, **asked},
        "samples_version": SAMPLES_VERSION,
    }


def _name(one: Filled) -> Filling:
    return (one.job or {})["key"], one.index
