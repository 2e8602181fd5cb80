"""Samples that are kept as they come, in a file of JSON lines, so that an interrupted job goes on behind them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

from sedd_cli.errors import WorkError
from sedd_cli.inference.generate import as_json
from sedd_cli.system.events import Event, Note, Sampled
from sedd_cli.system.json_lines import json_lines, read_json_lines


def resumable_samples(
    path: Path, n: int, draw: Callable[[int], Iterator[Event]], what: str
) -> Generator[Event, None, list[Sampled]]:
    """n samples: those that the file holds, and what `draw` makes from the number it is given on.

    Samples are numbered from 0 and `draw` yields them in the order of their numbers. WorkError where the file cannot
    be written.
    """
    kept = _whole(path)[:n]
    if kept:
        yield Note(f"{what}: {len(kept)} samples are there from before")
    if len(kept) == n:
        return kept
    try:
        path.write_text(json_lines(as_json(s) for s in kept), encoding="utf-8")
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


def _whole(path: Path) -> list[Sampled]:
    """The whole lines of a file, as long as they are numbered from 0 on."""
    found: list[Sampled] = []
    names = {f.name for f in dataclasses.fields(Sampled)}
    for line in read_json_lines(path):
        if line.record is None or line.record.get("index") != len(found):
            break
        found.append(Sampled(**{key: value for key, value in line.record.items() if key in names}))
    return found
