"""Samples and fillings stored one by one in a file of JSON lines, from which an interrupted job resumes."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

from sedd_cli.errors import RequestError, WorkError
from sedd_cli.inference.generate import as_json
from sedd_cli.system.events import Event, Note, Sampled
from sedd_cli.system.files import whole_file, write_whole
from sedd_cli.system.json_lines import json_lines, read_json_line, read_json_lines

#: How every result begins (see `as_json`).
BEGINNING = '{"index": '


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


class StoredFillings:
    """The results in a file of an earlier call: where each is, not what it holds.

    RequestError if the file holds anything else. every: without incomplete sets of candidates.
    """

    def __init__(self, out: Path, every: bool):
        self.out = out
        self.kept: list[dict[str, Any]] = []
        self._at: dict[tuple[str, int], list[int]] = {}
        self._end = self._size = 0
        self._drop: set[tuple[str, int]] = set()
        expected: dict[tuple[str, int], int] = {}
        if not out.is_file():
            return
        with out.open("rb") as file:
            for number, raw in enumerate(file, 1):
                line = read_json_line(raw)
                if not line.ended and line.cut_short(BEGINNING):
                    break
                try:
                    record = line.record or {}
                    filling, candidates = _filling(record), record["candidates"]
                except (KeyError, TypeError):
                    raise RequestError(
                        f"{out} holds something else (line {number} is no result of --input): "
                        "name another file with --out"
                    ) from None
                self._at.setdefault(filling, []).append(self._end)
                self._end += len(raw)
                if every:
                    expected[filling] = candidates
        self._size = out.stat().st_size
        self._drop = {filling for filling, count in expected.items() if len(self._at[filling]) != count}

    def take(self, key: str, number: int, keep: bool) -> bool:
        """Whether a filling is stored; keep: read its records."""
        places = self._at.get((key, number))
        if places is None or (key, number) in self._drop:
            return False
        if keep:
            with self.out.open("rb") as file:
                for at in places:
                    file.seek(at)
                    self.kept.append(read_json_line(file.readline()).record or {})
        return True

    def tidy(self) -> None:
        """Write the file anew without a torn last line and incomplete sets of candidates, if there are any."""
        torn = self._end < self._size
        with self.out.open("rb") if self.out.is_file() else io.BytesIO() as file:
            file.seek(max(self._end - 1, 0))
            unended = bool(self._end) and file.read(1) != b"\n"
        if not (torn or self._drop or unended):
            return
        with whole_file(self.out) as fresh, fresh.open("wb") as new, self.out.open("rb") as old:
            at = 0
            for raw in old:
                if at >= self._end:
                    break
                at += len(raw)
                if not self._drop or _filling(read_json_line(raw).record or {}) not in self._drop:
                    new.write(raw.rstrip(b"\n") + b"\n")


def _filling(record: dict[str, Any]) -> tuple[str, int]:
    """The filling that a record belongs to: its job's key and its number."""
    return record["job"]["key"], record["index"]
