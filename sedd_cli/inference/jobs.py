"""Infilling of many templates from a file of JSON lines, with results stored as they come."""

from __future__ import annotations

import dataclasses
import itertools
from collections import Counter
from collections.abc import Generator, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TextIO

from sedd_cli.checkpoints.loaded_model import LoadedModel
from sedd_cli.data.formats.records import parse_record, repeated_keys
from sedd_cli.errors import RequestError, WorkError, listed
from sedd_cli.inference.generate import as_json
from sedd_cli.inference.infill import Job, Plan, fill_plans, next_plans, plan_job
from sedd_cli.inference.resumable import StoredFillings
from sedd_cli.inference.sampling import Sampling
from sedd_cli.inference.template import gap_between, parse_template
from sedd_cli.recipe.build import build
from sedd_cli.system.digests import digest
from sedd_cli.system.events import Event, Note, Result, Sampled, Warn, expand_events, observe
from sedd_cli.system.files import open_output
from sedd_cli.system.json_lines import finite, json_lines, json_text
from sedd_cli.system.locks import beside, file_lock


@dataclass(frozen=True)
class JobRecord:
    """Fields of a line: a template, or prefix, suffix or both. An `id` beside them is copied to the results."""

    template: str | None = None
    prefix: str = ""
    suffix: str = ""
    n: int | None = None
    seed: int | None = None
    length: int | None = None
    candidates: int | None = None


@dataclass(frozen=True)
class JobLine:
    """A line of the file: its job, and the `id` in it, or the reason why it has no job. PAUSE stands for no line."""

    number: int
    job: Job | None = None
    id: Any = None
    refusal: str = ""


#: Among the lines of a pipe: no further line has arrived yet.
PAUSE = JobLine(0)


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
        facts = {"model": self.model.source, "fingerprint": self.model.fingerprint}
        return {**facts, **counts, "refused": refused, "samples": self.samples}


def read_jobs(
    lines: Iterable[bytes], source: str, length: int, n: int = 1, seed: int = 0, candidates: int | None = None
) -> list[JobLine]:
    """`job_lines` as a list."""
    return list(job_lines(lines, source, length, n, seed, candidates))


def job_lines(
    lines: Iterable[bytes | None], source: str, length: int, n: int = 1, seed: int = 0, candidates: int | None = None
) -> Iterator[JobLine]:
    """One job per line; n, seed and candidates are defaults. A line that cannot be read carries the reason.

    length: the default length of prefix, suffix and the gap between them together. RequestError where there is no line.
    None among the lines, no further one has arrived yet, gives PAUSE.
    """
    found, number = False, 0
    for line in lines:
        if line is None:
            yield PAUSE
            continue
        number += 1
        if not line.strip():
            continue
        found = True
        try:
            record = parse_record(source, number, line)
            if not isinstance(record, dict):
                raise RequestError(f"it is no JSON object but a {type(record).__name__}")
            if repeated := repeated_keys(record):
                raise RequestError(f"it has {listed(map(repr, dict.fromkeys(repeated)))} more than once in one object")
            name = record.pop("id", None)
            if len(json_text(name)) > LONGEST_ID:
                raise RequestError(f"its id has more than {LONGEST_ID:,} characters (the limit LONGEST_ID)")
            fields = build(JobRecord, record, "")
            if (fields.template is None) == (fields.prefix + fields.suffix == ""):
                raise RequestError("it takes either a template, or prefix, suffix or both")
            default_length = length if fields.template is None else None
            job = Job(
                gap_between(fields.prefix, fields.suffix)
                if fields.template is None
                else parse_template(fields.template),
                n if fields.n is None else fields.n,
                seed if fields.seed is None else fields.seed,
                default_length if fields.length is None else fields.length,
                candidates if fields.candidates is None else fields.candidates,
            )
            yield JobLine(number, job, name)
        except (RequestError, RecursionError) as error:
            reason = "its id is nested too deeply" if isinstance(error, RecursionError) else str(error)
            yield JobLine(number, refusal=reason.removeprefix(f"line {number:,} of {source} "))
    if not found:
        raise RequestError(f"{source} holds no jobs")


def fill_jobs(
    model: LoadedModel,
    lines: Iterable[JobLine],
    sampling: Sampling,
    every: bool,
    out: Path | None,
    resume: bool,
    watch: bool,
    keep: bool = True,
) -> Generator[Event, None, JobsResult]:  # fmt: skip
    """Fill every line that has a job; results are yielded as they finish, and appended to `out` as JSON lines.

    Lines are read and planned as they are filled, so that the first results come at once and memory does not grow with
    their number. At a PAUSE, those that have arrived are filled. With `resume`, results of the same jobs in `out` are
    not drawn again. A result depends on its own line and the sampling alone, not on other lines, their order, or when
    they arrive. Each refused line gives a Warn with the reason. keep: return the records that `out` held before, too.
    """
    sampling.resolve(model)  # an error that concerns all lines comes before any work
    with writing(out):
        there = StoredFillings(out, every) if out is not None and resume else None
        plans = _Plans(model, sampling, lines, every, there, keep)
        # small files are planned at once: their bars know the end, and all lines are checked before any is filled
        ahead, whole = next_plans(iter(plans))
        yield from plans.news()
        if plans.before:
            yield Note(f"{plans.before} of {plans.wanted} fillings are stored already" + ("" if whole else " so far"))
        if there is not None:
            there.tidy()
        filling = fill_plans(model, ahead if whole else itertools.chain(ahead, [None], plans), every, watch, keep)
        del ahead  # a stream is not held
        if out is not None:
            filling = stored(filling, out, "a" if resume else "w")
        found = yield from expand_events(filling, lambda event: (*plans.news(), event))
    refused = [RefusedLine(number, reason) for number, reason in sorted(plans.refused)]
    samples = (there.kept if there else []) + [as_json(one) for one in found]
    samples.sort(key=lambda one: (one["job"]["line"], one["index"], one["candidate"]))
    return JobsResult(model, plans.lines, plans.wanted, plans.before, refused, samples)


#: Most characters of an `id`, as JSON.
LONGEST_ID = 10_000


class _Plans:
    """The plans of the fillings that are wanted and not stored yet, one a filling, made as they are asked for.

    None among them: no further line has arrived yet.
    """

    def __init__(
        self, model: LoadedModel, sampling: Sampling, lines: Iterable[JobLine], every: bool,
        there: StoredFillings | None, keep: bool,
    ):  # fmt: skip
        self.lines = self.wanted = self.before = 0
        self.refused: list[tuple[int, str]] = []
        self._reported = 0
        self._each = self._missing(_keyed(model, self._planned(model, sampling, lines), every), there, keep)

    def __iter__(self) -> Iterator[Plan | None]:
        return self._each

    def news(self) -> list[Warn]:
        """Warnings of the lines that were refused since the last call."""
        first, self._reported = self._reported, len(self.refused)
        return [Warn(f"line {number}: {reason}") for number, reason in self.refused[first:]]

    def _planned(
        self, model: LoadedModel, sampling: Sampling, lines: Iterable[JobLine]
    ) -> Iterator[tuple[JobLine, Plan] | None]:
        for line in lines:
            if line is PAUSE:
                yield None
                continue
            self.lines += 1
            if line.job is None:
                self.refused.append((line.number, line.refusal))
                continue
            try:
                plan = plan_job(model, line.job, sampling)
            except RequestError as error:
                self.refused.append((line.number, str(error)))
                continue
            yield line, plan

    def _missing(
        self, keyed: Iterator[tuple[JobLine, Plan, str] | None], there: StoredFillings | None, keep: bool
    ) -> Iterator[Plan | None]:
        for one in keyed:
            if one is None:
                yield None
                continue
            line, plan, key = one
            facts = {"id": line.id, "line": line.number, "key": key}
            for k in range(plan.job.n):
                self.wanted += 1
                if there is not None and there.take(key, k, keep):
                    self.before += 1
                else:
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


def writing(out: Path | None) -> AbstractContextManager[None]:
    """Lock an output file; RequestError where another process on this machine writes it."""
    if out is None or (out.exists() and not out.is_file()):
        return nullcontext()
    return file_lock(beside(out.resolve()), f"another process writes {out}", remove=True)


def stored(
    job: Generator[Event, None, Result], out: Path, mode: Literal["w", "a"] = "w"
) -> Generator[Event, None, Result]:
    """The job; each sample is written to `out` as it comes, one JSON object a line. WorkError if writing fails."""
    file: TextIO | None = None

    def write(event: Event) -> None:
        nonlocal file
        if not isinstance(event, Sampled):
            return
        try:
            if file is None:  # only now: a request that is refused must not empty the file
                file = open_output(out, mode)
            file.write(json_lines([as_json(event)]))
            file.flush()
        except OSError as error:
            raise WorkError(f"cannot write {out}: {error.strerror}; what is finished is in it") from None

    try:
        return (yield from observe(job, write))
    finally:
        if file is not None:
            with suppress(OSError):  # what could not be written is reported above
                file.close()
