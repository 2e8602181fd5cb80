"""Many templates from a file of JSON lines, and results that are kept as they come."""

from __future__ import annotations

import dataclasses
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sedd_cli.checkpoints.loaded_model import LoadedModel
from sedd_cli.data.formats.records import parse_record
from sedd_cli.errors import RequestError, WorkError
from sedd_cli.inference.generate import as_json
from sedd_cli.inference.infill import Job, fill_plans, plan_job
from sedd_cli.inference.sampling import ResolvedSampler, Sampling
from sedd_cli.inference.template import between, parse_template
from sedd_cli.recipe.build import build
from sedd_cli.system.digests import digest
from sedd_cli.system.events import Event, Finished, Note, Sampled, Warn
from sedd_cli.system.files import write_whole
from sedd_cli.system.json_lines import json_lines, read_json_lines
from sedd_cli.system.locks import file_lock

#: How every result begins (see `as_json`).
BEGINNING = '{"index": '


@dataclass(frozen=True)
class Asked:
    """What a line may say: a template, or prefix, suffix or both. Beside them an `id`, which comes back as it is."""

    template: str | None = None
    prefix: str = ""
    suffix: str = ""
    n: int | None = None
    seed: int | None = None
    length: int | None = None
    candidates: int | None = None


@dataclass(frozen=True)
class Line:
    """A line of the file: its job, or why it has none."""

    number: int
    job: Job | None = None
    refusal: str = ""


def read_jobs(
    lines: Iterable[bytes], source: str, length: int, n: int = 1, seed: int = 0, candidates: int | None = None
) -> list[Line]:
    """A job a line, with n, seed and candidates where the line names none; a line that cannot be read says why.

    length: of prefix, suffix and what is between them together, where the line names none.
    """
    found = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            record = parse_record(source, number, line)
            if not isinstance(record, dict):
                raise RequestError(f"it is no JSON object but a {type(record).__name__}")
            name = record.pop("id", None)
            asked = build(Asked, record, "")
            if (asked.template is None) == (asked.prefix + asked.suffix == ""):
                raise RequestError("it takes either a template, or prefix, suffix or both")
            template = between(asked.prefix, asked.suffix) if asked.template is None else parse_template(asked.template)
            job = Job(
                template,
                n if asked.n is None else asked.n,
                seed if asked.seed is None else asked.seed,
                length if asked.length is None and asked.template is None else asked.length,
                candidates if asked.candidates is None else asked.candidates,
                facts={"id": name},
            )
            found.append(Line(number, job))
        except RequestError as error:
            found.append(Line(number, refusal=str(error).removeprefix(f"line {number:,} of {source} ")))
    if not found:
        raise RequestError(f"{source} holds no jobs")
    return found


def fill_jobs(
    model: LoadedModel, lines: list[Line], sampling: Sampling, every: bool, out: Path | None, resume: bool, watch: bool
) -> Iterator[Event]:
    """Fill every line that can be filled; results come as they finish, and go to `out`, one JSON object a line.

    What `out` holds of the same jobs is not done again. A result depends on its own line and the sampling alone, not
    on the others nor on their order. Finished tells which lines were refused; for each a Warn says why.
    """
    way = sampling.resolve(model)  # what no line could mend is refused before any
    with writing(out):
        kept = _kept(out) if out is not None and resume else []
        if every:  # of all candidates of a filling, or none
            whole = Counter((r["job"]["key"], r["index"]) for r in kept)
            kept = [r for r in kept if whole[r["job"]["key"], r["index"]] == r["candidates"]]
        there = {(r["job"]["key"], r["index"]) for r in kept}
        plans, asked, refused = [], set(), {line.number: line.refusal for line in lines if line.job is None}
        for line, job, key in _keyed(model, lines, way, every):
            try:
                plan = plan_job(model, job)
            except RequestError as error:
                refused[line] = str(error)
                continue
            facts, wanted = {**job.facts, "line": line, "key": key}, [(key, k) for k in range(job.n)]
            asked.update(wanted)
            jobs = [dataclasses.replace(job, n=1, first=k, facts=facts) for _, k in wanted if (key, k) not in there]
            plans += [dataclasses.replace(plan, job=one) for one in jobs]
        for number, reason in sorted(refused.items()):
            yield Warn(f"line {number}: {reason}")
        before = [r for r in kept if (r["job"]["key"], r["index"]) in asked]
        if before:
            yield Note(f"{len(asked) - len(plans)} of {len(asked)} fillings are there from before")
        yield from _stored(fill_plans(model, way, plans, every, watch), out, kept)
    refusals = [{"line": number, "reason": reason} for number, reason in sorted(refused.items())]
    counts = {"lines": len(lines), "fillings": len(asked), "from_before": len(asked) - len(plans)}
    yield Finished({**counts, "refused": refusals, "kept": before})


def _keyed(model: LoadedModel, lines: list[Line], way: ResolvedSampler, every: bool) -> list[tuple[int, Job, str]]:
    """The line and job of each that has one, and what its results depend on; equal jobs are told apart by counting."""
    how = [way.facts, dataclasses.asdict(way.sampler), model.precision, model.fingerprint]
    how.append(model.tokenizer.fingerprint if model.tokenizer else None)
    seen: Counter[str] = Counter()
    found = []
    for line in lines:
        if job := line.job:
            asked = [str(job.template), job.seed, job.length, job.candidates, every, job.facts["id"]]
            key = digest([how, asked])[:16]
            seen[key] += 1
            found.append((line.number, job, key if seen[key] == 1 else f"{key}-{seen[key]}"))
    return found


def _kept(out: Path) -> list[dict[str, Any]]:
    """The results that a file holds whole; RequestError if it holds anything else."""
    records = []
    for number, line in enumerate(read_json_lines(out), 1):
        if not line.ended and line.cut_short(BEGINNING):
            break
        try:
            record = line.record or {}
            record["job"]["key"], record["index"], record["candidates"]
        except (KeyError, TypeError):
            raise RequestError(
                f"{out} holds something else (line {number} is no result of --input): name another file with --out"
            ) from None
        records.append(record)
    return records


def _stored(events: Iterable[Event], out: Path | None, kept: list[dict[str, Any]]) -> Iterator[Event]:
    if out is None:
        yield from events
        return
    if out.is_file():
        # without a last line that was cut short
        write_whole(out, json_lines(kept))
    yield from stored(events, out, "a")


def writing(out: Path | None) -> AbstractContextManager[None]:
    """Hold a file that results go to; RequestError where another process on this machine does."""
    if out is None or (out.exists() and not out.is_file()):
        return nullcontext()
    lock = Path(tempfile.gettempdir()) / f"sedd-{digest(str(out.resolve()))[:16]}.lock"
    return file_lock(lock, f"another process writes {out}")


def stored(events: Iterable[Event], out: Path, mode: str = "w") -> Iterator[Event]:
    """The events; each sample is written to `out` as it comes, one JSON object a line. WorkError where it cannot be."""
    with ExitStack() as held:
        file = None
        for event in events:
            if isinstance(event, Sampled):
                try:
                    if file is None:  # not before: a request that turns out wrong must not empty a file
                        file = held.enter_context(out.open(mode, encoding="utf-8"))
                    file.write(json_lines([as_json(event)]))
                    file.flush()
                except OSError as error:
                    raise WorkError(f"cannot write {out}: {error.strerror}; what is finished is in it") from None
            yield event
