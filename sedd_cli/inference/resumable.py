"""Samples and fillings stored one by one in a file of JSON lines."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Generator, Iterator
from contextlib import AbstractContextManager, nullcontext, suppress
from pathlib import Path
from typing import Any, Literal, TextIO

from sedd_cli.errors import WorkError
from sedd_cli.inference.generate import as_json
from sedd_cli.system.events import Event, Note, Result, Sampled, observe
from sedd_cli.system.files import open_output, write_whole
from sedd_cli.system.json_lines import json_lines, read_json_lines
from sedd_cli.system.locks import beside, file_lock
from sedd_cli.system.software import recorded


def resumable_samples(
    path: Path, n: int, draw: Callable[[int], Iterator[Event]], what: str
) -> Generator[Event, None, list[Sampled]]:
    """n samples: those in the file, then those of `draw(first)`.

    Samples are numbered from 0, and `draw` yields them in the order of their numbers. WorkError where the file cannot
    be written.
    """
    there = _stored_samples(path)[:n]
    kept = [sample for sample, _ in there]
    if kept:
        yield Note(f"{what}: {len(kept)} samples are stored already")
    if len(kept) == n:
        return kept
    try:
        write_whole(path, json_lines(record for _, record in there))  # without what a crash cut short
        made = recorded({})
        with path.open("a", encoding="utf-8") as file:
            for event in draw(len(kept)):
                if isinstance(event, Sampled):
                    kept.append(event)
                    file.write(json_lines([as_json(event) | made]))
                    file.flush()
                else:
                    yield event
    except OSError as error:
        raise WorkError(f"cannot write {path}: {error.strerror}") from None
    return kept


def _stored_samples(path: Path) -> list[tuple[Sampled, dict[str, Any]]]:
    """The samples of a file and their records, up to a torn line or a gap in the numbers."""
    found: list[tuple[Sampled, dict[str, Any]]] = []
    names = {f.name for f in dataclasses.fields(Sampled)}
    for line in read_json_lines(path):
        if line.record is None or line.record.get("index") != len(found):
            break
        try:
            sample = Sampled(**{key: value for key, value in line.record.items() if key in names})
            found.append((sample, line.record))
        except TypeError:
            break
    return found


def writing(out: Path | None) -> AbstractContextManager[None]:
    """Lock an output file; RequestError where another process on this machine writes it."""
    if out is None or (out.exists() and not out.is_file()):
        return nullcontext()
    return file_lock(beside(out.resolve()), f"another process writes {out}", remove=True)


def stored(
    job: Generator[Event, None, Result], out: Path, mode: Literal["w", "a"] = "w"
) -> Generator[Event, None, Result]:
    """The job; each sample is written to `out` as it comes, one JSON object a line. WorkError if writing fails.

    Each line names what made it (`made_by`): lines of several calls may stand in one file.
    """
    file: TextIO | None = None
    made: dict[str, Any] = {}

    def write(event: Event) -> None:
        nonlocal file, made
        if not isinstance(event, Sampled):
            return
        try:
            if file is None:  # only now: a request that is refused must not empty the file
                file, made = open_output(out, mode), recorded({})
            file.write(json_lines([as_json(event) | made]))
            file.flush()
        except OSError as error:
            raise WorkError(f"cannot write {out}: {error.strerror}; what is finished is in it") from None

    try:
        return (yield from observe(job, write))
    finally:
        if file is not None:
            with suppress(OSError):  # what could not be written is reported above
                file.close()
