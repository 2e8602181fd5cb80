"""Plain text files, in any encoding, as documents."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

from sedd_cli.data.formats.decoding import decoded, lines_of
from sedd_cli.data.formats.files import LONGEST, SEPARATIONS, Input, ReadOptions
from sedd_cli.errors import RequestError


def read_text(source: Path | Input, reading: ReadOptions) -> Iterator[str]:
    """Documents of a text file, as `reading.documents` separates them; blank ones are left out."""
    if reading.documents not in SEPARATIONS:
        raise RequestError(f"documents {reading.documents!r} is not known; there are: {', '.join(SEPARATIONS)}")
    return _documents(source if isinstance(source, Input) else Input.of(source), reading)


def _documents(source: Input, reading: ReadOptions) -> Iterator[str]:
    texts, name = decoded(source, reading.encoding), reading.documents
    if name == "auto":
        begun = list(_first(texts))
        beginning = "".join(begun)[:LONGEST]
        name = "blank" if any(not line.strip() for line in beginning.strip().split("\n")) else "line"
        texts = itertools.chain(begun, texts)
    return (text for text in _SEPARATED[name](texts) if text.strip())


def _first(texts: Iterator[str]) -> Iterator[str]:
    """As many pieces as hold the first million characters."""
    size = 0
    while size < LONGEST and (text := next(texts, "")):
        size += len(text)
        yield text


def read_lines(path: Path, reading: ReadOptions) -> Iterator[str]:
    """Every line with its line end, empty ones too; a line longer than a million characters comes in pieces."""
    return lines_of(decoded(Input.of(path), reading.encoding), LONGEST)


def _single_lines(texts: Iterator[str]) -> Iterator[str]:
    return (line.rstrip("\n") for line in lines_of(texts, LONGEST))


def _paragraphs(texts: Iterator[str]) -> Iterator[str]:
    held: list[str] = []
    size = 0
    for line in lines_of(texts, LONGEST):
        if held and not line.strip():
            yield "".join(held).rstrip("\n")
            held, size = [], 0
        if line.strip():
            rest = line
            if size + len(line) > LONGEST:  # parts that another follows have LONGEST characters
                yield "".join([*held, line[: LONGEST - size]])
                held, size, rest = [], 0, line[LONGEST - size :]
            held.append(rest)
            size += len(rest)
    yield "".join(held).rstrip("\n")


def _whole(texts: Iterator[str]) -> Iterator[str]:
    held: list[str] = []
    size = 0
    for text in texts:
        start = 0
        while start < len(text):
            stop = min(len(text), start + LONGEST - size)
            held.append(text[start:stop])
            size += stop - start
            start = stop
            if size == LONGEST:
                yield "".join(held)
                held, size = [], 0
    if held:
        yield "".join(held)


_SEPARATED = {"blank": _paragraphs, "line": _single_lines, "file": _whole}
