"""Samples stored one by one in a file of JSON lines, from which an interrupted job resumes."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

from sedd_cli.errors import WorkError
from sedd_cli.inference.generate import as_json
from sedd_cli.system.events import Event, Note, Sampled
from sedd_cli.system.files import write_whole
from sedd_cli.system.json_lines import json_lines, read_json_lines


def resumable_samples(
    path: Path, n: int, draw: Callable[[int], Iterator[Event]], what: str
) -> Generator[Event, None, list[Sampled]]:
    """n samples: those in the file, then those of `draw(first)`.

    Samples are numbered from 0, and `draw` yields them in the order of their numbers. WorkError where the file cannot
    be written.
    """
    kept = _stored_samples(path)[:n]
    if kept:
        yield Note(f"{what}: {len(kept)} samples are stored already")
    if len(kept) == n:
        return kept
    try:
        write_whole(path, json_lines(as_json(s) for s in kept))  # without what a crash cut short
        with path.open("a", encoding="utf-8") as file:
            for event in draw(len(kept)):
                if isinstance(event, Sampled):
                    kept.append(event)
                    file.write(json_lines([as_json(event)]))
                    file.flush()
                else:
                    yield event
    except OSError as error:
        raise WorkError(f"cannot write {path}: {error.strerror}") from None
    return kept


def _stored_samples(path: Path) -> list[Sampled]:
    """The samples of a file, up to a torn line or a gap in the numbers."""
    found: list[Sampled] = []
    names = {f.name for f in dataclasses.fields(Sampled)}
    for line in read_json_lines(path):
        if line.record is None or line.record.get("index") != len(found):
            break
        try:
            found.append(Sampled(**{key: value for key, value in line.record.items() if key in names}))
        except TypeError:
            break
    return found
