"""Infilling of many templates from a file, with results stored as they come and shown in the order of the file."""

from __future__ import annotations

import dataclasses
import itertools
from collections import Counter, deque
from collections.abc import Generator, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sedd_cli.checkpoints.loaded_model import LoadedModel
from sedd_cli.errors import RequestError
from sedd_cli.inference.batch.lines import PAUSE, JobLine
from sedd_cli.inference.batch.stored import Filling, StoredFillings
from sedd_cli.inference.generate import as_json
from sedd_cli.inference.infill import fill_plans, next_plans
from sedd_cli.inference.plan import Plan, plan_job
from sedd_cli.inference.resumable import stored, writing
from sedd_cli.inference.sampling import Sampling
from sedd_cli.recipe.outside import code_of
from sedd_cli.system.digests import digest
from sedd_cli.system.events import Event, Filled, Note, Warn, expand_events
from sedd_cli.system.files import is_stream
from sedd_cli.system.json_lines import finite


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
        samples: The records of all fillings, sorted by line, number and candidate.
    """

    model: LoadedModel
    lines: int
    fillings: int
    from_before: int
    refused: list[RefusedLine]
    samples: list[dict[str, Any]]

    def to_dict(self) -> dict[str, Any]:
        counts = {"lines": self.lines, "fillings": self.fillings, "from_before": self.from_before}
        refused = [dataclasses.asdict(one) for one in self.refused]
        return {**self.model.identity, **counts, "refused": refused, "samples": self.samples}


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
    alone, not on other lines, their order, or when they arrive. Each refused line gives a Warn with the reason.

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
        plans = _Plans(model, sampling, lines, every, there, keep, setting)
        # small files are planned at once: their bars know the end, and all lines are checked before any is filled
        ahead, whole = next_plans(iter(plans))
        yield from plans.news()
        if plans.before:
            yield Note(f"{plans.before} of {plans.wanted} fillings are stored already" + ("" if whole else " so far"))
        if there is not None:
            there.tidy()
        filling = fill_plans(model, ahead if whole else itertools.chain(ahead, [None], plans), every, watch, keep)
        del ahead  # a stream is not held
        if out is not None and there is None:  # what is written to a pipe stays in its order
            filling = stored(_in_turn(filling, plans.issued, every), out)
        elif out is not None:
            filling = _in_turn(stored(filling, out, "a" if resume else "w"), plans.issued, every)
        else:
            filling = _in_turn(filling, plans.issued, every)
        found = yield from expand_events(filling, lambda event: (*plans.news(), event))
        if there is not None and plans.wanted:
            if others := there.of_other_jobs:
                yield Warn(
                    f"{out} also holds {others} fillings of jobs that the input does not hold, from before; they come "
                    "last (--fresh begins it anew)"
                )
            there.arrange()
    refused = [RefusedLine(number, reason) for number, reason in sorted(plans.refused)]
    samples = (there.kept if there else []) + [as_json(one) for one in found]
    samples.sort(key=lambda one: (one["job"]["line"], one["index"], one["candidate"]))
    return JobsResult(model, plans.lines, plans.wanted, plans.before, refused, samples)


def _setting(model: LoadedModel, sampling: Sampling, asked: Mapping[str, Any]) -> dict[str, Any]:
    """What a result says of its model, and of the options that were given."""
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
    }


def _in_turn(
    filling: Generator[Event, None, list[Filled]], issued: deque[Filling], every: bool
) -> Generator[Event, None, list[Filled]]:
    """The fillings in the order in which their plans were issued; those that finish early are held."""
    held: dict[Filling, list[Filled]] = {}

    def complete(name: Filling) -> bool:
        return name in held and (not every or len(held[name]) == held[name][0].candidates)

    def in_turn(event: Event) -> Iterable[Event]:
        if not isinstance(event, Filled):
            return (event,)
        held.setdefault(((event.job or {})["key"], event.index), []).append(event)
        ready: list[Filled] = []
        while issued and complete(issued[0]):
            ready += held.pop(issued.popleft())
        return ready

    return expand_events(filling, in_turn)


class _Plans:
    """The plans of the fillings that are wanted and not stored yet, one a filling, made as they are asked for.

    None among them: no further line has arrived yet.
    """

    def __init__(
        self, model: LoadedModel, sampling: Sampling, lines: Iterable[JobLine], every: bool,
        there: StoredFillings | None, keep: bool, setting: dict[str, Any],
    ):  # fmt: skip
        self.lines = self.wanted = self.before = 0
        self.refused: list[tuple[int, str]] = []
        #: The fillings that are planned and not shown yet, in the order of the lines.
        self.issued: deque[Filling] = deque()
        self._setting = setting
        self._news: list[Warn] = []
        self._warned: set[str] = set()
        self._each = self._missing(_keyed(model, self._planned(model, sampling, lines), every), there, keep)

    def __iter__(self) -> Iterator[Plan | None]:
        return self._each

    def news(self) -> list[Warn]:
        """Warnings about the lines since the last call."""
        news, self._news = self._news, []
        return news

    def _refuse(self, line: JobLine, reason: str) -> None:
        self.refused.append((line.number, reason))
        self._news.append(Warn(f"line {line.number}: {reason}"))

    def _planned(
        self, model: LoadedModel, sampling: Sampling, lines: Iterable[JobLine]
    ) -> Iterator[tuple[JobLine, Plan] | None]:
        for line in lines:
            if line is PAUSE:
                yield None
                continue
            self.lines += 1
            if line.job is None:
                self._refuse(line, line.refusal)
                continue
            try:
                plan = plan_job(model, line.job, sampling)
            except RequestError as error:
                self._refuse(line, str(error))
                continue
            if line.warning and line.warning not in self._warned:
                self._warned.add(line.warning)
                self._news.append(Warn(f"line {line.number}: {line.warning}"))
            yield line, plan

    def _missing(
        self, keyed: Iterator[tuple[JobLine, Plan, str] | None], there: StoredFillings | None, keep: bool
    ) -> Iterator[Plan | None]:
        for one in keyed:
            if one is None:
                yield None
                continue
            line, plan, key = one
            facts = {"id": line.id, "line": line.number, "key": key, "extra": line.extra, **self._setting}
            for k in range(plan.job.n):
                self.wanted += 1
                if there is not None and there.take(key, k, facts, keep):
                    self.before += 1
                else:
                    self.issued.append((key, k))
                    yield dataclasses.replace(plan, job=dataclasses.replace(plan.job, n=1, first=k, facts=facts))


def _keyed(
    model: LoadedModel, planned: Iterable[tuple[JobLine, Plan] | None], every: bool
) -> Iterator[tuple[JobLine, Plan, str] | None]:
    """Each planned line with a key of all that determines its results; equal jobs are numbered. None stays."""
    fixed = [model.precision, model.fingerprint, model.tokenizer.fingerprint if model.tokenizer else None]
    seen: Counter[bytes] = Counter()
    for one in planned:
        if one is None:
            yield None
            continue
        line, plan = one
        job, resolved = plan.job, plan.resolved
        how = [resolved.facts, dataclasses.asdict(resolved.sampler), *fixed]
        key = digest([how, [str(job.template), job.seed, job.length, job.candidates, every, finite(line.id)]])[:16]
        number = bytes.fromhex(key)
        seen[number] += 1
        yield line, plan, key if seen[number] == 1 else f"{key}-{seen[number]}"
