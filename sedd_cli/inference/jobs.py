"""Infilling of many templates from a file of JSON lines, with results stored as they come."""

from __future__ import annotations

import dataclasses
import tempfile
from collections import Counter
from collections.abc import Generator, Iterable
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TextIO

from sedd_cli.checkpoints.loaded_model import LoadedModel
from sedd_cli.data.formats.records import parse_record
from sedd_cli.errors import RequestError, WorkError
from sedd_cli.inference.generate import as_json
from sedd_cli.inference.infill import Job, Plan, fill_plans, plan_job
from sedd_cli.inference.sampling import Sampling
from sedd_cli.inference.template import between, parse_template
from sedd_cli.recipe.build import build
from sedd_cli.system.digests import digest
from sedd_cli.system.events import Event, Note, Result, Sampled, Warn, observe
from sedd_cli.system.files import open_output, write_whole
from sedd_cli.system.json_lines import json_lines, read_json_lines
from sedd_cli.system.locks import file_lock

#: How every result begins (see `as_json`).
BEGINNING = '{"index": '


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
    """A line of the file: its job, and the `id` in it, or the reason why it has no job."""

    number: int
    job: Job | None = None
    id: Any = None
    refusal: str = ""


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
    """One job per line; n, seed and candidates are defaults. A line that cannot be read carries the reason.

    length: the default length of prefix, suffix and the gap between them together. RequestError where there is no line.
    """
    found: list[JobLine] = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            record = parse_record(source, number, line)
            if not isinstance(record, dict):
                raise RequestError(f"it is no JSON object but a {type(record).__name__}")
            name = record.pop("id", None)
            fields = build(JobRecord, record, "")
            if (fields.template is None) == (fields.prefix + fields.suffix == ""):
                raise RequestError("it takes either a template, or prefix, suffix or both")
            default_length = length if fields.template is None else None
            job = Job(
                between(fields.prefix, fields.suffix) if fields.template is None else parse_template(fields.template),
                n if fields.n is None else fields.n,
                seed if fields.seed is None else fields.seed,
                default_length if fields.length is None else fields.length,
                candidates if fields.candidates is None else fields.candidates,
            )
            found.append(JobLine(number, job, name))
        except RequestError as error:
            found.append(JobLine(number, refusal=str(error).removeprefix(f"line {number:,} of {source} ")))
    if not found:
        raise RequestError(f"{source} holds no jobs")
    return found


def fill_jobs(
    model: LoadedModel,
    lines: list[JobLine],
    sampling: Sampling,
    every: bool,
    out: Path | None,
    resume: bool,
    watch: bool,
) -> Generator[Event, None, JobsResult]:  # fmt: skip
    """Fill every line that has a job; results are yielded as they finish, and appended to `out` as JSON lines.

    With `resume`, results of the same jobs in `out` are not drawn again. A result depends on its own line and the
    sampling alone, not on other lines or their order. Each refused line gives a Warn with the reason.
    """
    sampling.resolve(model)  # an error that concerns all lines comes before any work
    with writing(out):
        kept = _stored_records(out, every) if out is not None and resume else []
        there = {_filling(record) for record in kept}
        planned: list[tuple[JobLine, Plan]] = []
        plans: list[Plan] = []
        wanted: set[tuple[str, int]] = set()
        reasons = {line.number: line.refusal for line in lines if line.job is None}
        for line in lines:
            try:
                if line.job:
                    planned.append((line, plan_job(model, line.job, sampling)))
            except RequestError as error:
                reasons[line.number] = str(error)
        for line, plan, key in _keyed(model, planned, every):
            job = plan.job
            facts = {"id": line.id, "line": line.number, "key": key}
            wanted.update((key, k) for k in range(job.n))
            jobs = [dataclasses.replace(job, n=1, first=k, facts=facts) for k in range(job.n) if (key, k) not in there]
            plans += [dataclasses.replace(plan, job=one) for one in jobs]
        refused = [RefusedLine(number, reason) for number, reason in sorted(reasons.items())]
        for one in refused:
            yield Warn(f"line {one.line}: {one.reason}")
        before = [record for record in kept if _filling(record) in wanted]
        if before:
            yield Note(f"{len(wanted) - len(plans)} of {len(wanted)} fillings are stored already")
        filling = fill_plans(model, plans, every, watch)
        if out is not None:
            if out.is_file():  # without a torn last line
                write_whole(out, json_lines(kept))
            filling = stored(filling, out, "a")
        samples = before + [as_json(one) for one in (yield from filling)]
    samples.sort(key=lambda one: (one["job"]["line"], one["index"], one["candidate"]))
    return JobsResult(model, len(lines), len(wanted), len(wanted) - len(plans), refused, samples)


def _keyed(model: LoadedModel, planned: list[tuple[JobLine, Plan]], every: bool) -> list[tuple[JobLine, Plan, str]]:
    """Each planned line with a key of all that determines its results; equal jobs are numbered."""
    fixed = [model.precision, model.fingerprint, model.tokenizer.fingerprint if model.tokenizer else None]
    seen: Counter[str] = Counter()
    found = []
    for line, plan in planned:
        job, resolved = plan.job, plan.resolved
        how = [resolved.facts, dataclasses.asdict(resolved.sampler), *fixed]
        key = digest([how, [str(job.template), job.seed, job.length, job.candidates, every, line.id]])[:16]
        seen[key] += 1
        found.append((line, plan, key if seen[key] == 1 else f"{key}-{seen[key]}"))
    return found


def _filling(record: dict[str, Any]) -> tuple[str, int]:
    """The filling that a record belongs to: its job's key and its number."""
    return record["job"]["key"], record["index"]


def _stored_records(out: Path, every: bool) -> list[dict[str, Any]]:
    """The results in a file; RequestError if it holds anything else. every: without incomplete sets of candidates."""
    records = []
    for number, line in enumerate(read_json_lines(out), 1):
        if not line.ended and line.cut_short(BEGINNING):
            break
        try:
            record = line.record or {}
            _ = record["job"]["key"], record["index"], record["candidates"]
        except (KeyError, TypeError):
            raise RequestError(
                f"{out} holds something else (line {number} is no result of --input): name another file with --out"
            ) from None
        records.append(record)
    if every:
        count = Counter(map(_filling, records))
        return [record for record in records if count[_filling(record)] == record["candidates"]]
    return records


def writing(out: Path | None) -> AbstractContextManager[None]:
    """Lock an output file; RequestError where another process on this machine writes it."""
    if out is None or (out.exists() and not out.is_file()):
        return nullcontext()
    lock = Path(tempfile.gettempdir()) / f"sedd-{digest(str(out.resolve()))[:16]}.lock"
    return file_lock(lock, f"another process writes {out}")


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
                file = files.enter_context(open_output(out, mode))
            file.write(json_lines([as_json(event)]))
            file.flush()
        except OSError as error:
            raise WorkError(f"cannot write {out}: {error.strerror}; what is finished is in it") from None

    with ExitStack() as files:
        return (yield from observe(job, write))
