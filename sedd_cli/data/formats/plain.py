"""Plain text files, in any encoding, as documents."""

from __future__ import annotations

import codecs
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from sedd_cli.errors import RequestError

LONGEST = 1 << 20
SEPARATIONS = ("auto", "blank", "line", "file")
_PIECE = 1 << 20


@dataclass(frozen=True)
class ReadOptions:
    """field: key or column that holds the text, None for "text". encoding: of text files.

    documents: what separates the documents of a text file: "blank" lines; every "line" one document; the
    whole "file" one document; "auto" takes blank lines where the first million characters have one, else
    lines. A document longer than a million characters is cut into documents of that length, so that memory
    stays flat.
    """

    field: str | None = None
    encoding: str = "utf-8"
    documents: str = "auto"


def read_text(path: Path, reading: ReadOptions) -> Iterator[str]:
    """Documents of a text file, as `reading.documents` separates them; blank ones are left out."""
    if reading.documents not in SEPARATIONS:
        raise RequestError(f"documents {reading.documents!r} is not known; there are: {', '.join(SEPARATIONS)}")
    name = _sniff(path, reading) if reading.documents == "auto" else reading.documents
    return (text for text in _decoded(path, reading, _SEPARATED[name]) if text.strip())


def read_lines(path: Path, reading: ReadOptions) -> Iterator[str]:
    """Every line with its line end, empty ones too; a line longer than a million characters comes in pieces."""
    return _decoded(path, reading, _lines)


def _decoded(path: Path, reading: ReadOptions, separate: Callable[[TextIO], Iterator[str]]) -> Iterator[str]:
    """What `separate` makes of the open file; a byte that does not decode is named by its offset."""
    _refuse_binary(path, reading.encoding)
    try:
        with path.open(encoding=_without_mark(reading.encoding)) as stream:
            yield from separate(stream)
    except UnicodeDecodeError as error:
        offset = _first_bad_byte(path, reading.encoding)
        raise RequestError(
            f"{path} is not {reading.encoding}: byte {offset:,} does not decode; "
            "say what it is with --encoding, as in --encoding latin-1"
        ) from error


def _lines(stream: TextIO) -> Iterator[str]:
    return iter(lambda: stream.readline(LONGEST), "")


def _single_lines(stream: TextIO) -> Iterator[str]:
    return (line.rstrip("\n") for line in _lines(stream))


def _paragraphs(stream: TextIO) -> Iterator[str]:
    held: list[str] = []
    size = 0
    for line in _lines(stream):
        if held and (not line.strip() or size + len(line) > LONGEST):
            yield "".join(held).rstrip("\n")
            held, size = [], 0
        if line.strip():
            held.append(line)
            size += len(line)
    yield "".join(held).rstrip("\n")


def _whole(stream: TextIO) -> Iterator[str]:
    return iter(lambda: stream.read(LONGEST), "")


_SEPARATED = {"blank": _paragraphs, "line": _single_lines, "file": _whole}


def _sniff(path: Path, reading: ReadOptions) -> str:
    """Whether the beginning of the file has an empty line between two that are not."""
    beginning = next(_decoded(path, reading, _whole), "")
    return "blank" if any(not line.strip() for line in beginning.strip().split("\n")) else "line"


def _without_mark(encoding: str) -> str:
    """The codec that also swallows a byte order mark, where UTF-8 is meant."""
    try:
        return "utf-8-sig" if codecs.lookup(encoding).name == "utf-8" else encoding
    except LookupError as error:
        raise RequestError(f"encoding {encoding!r} is not known to Python; try utf-8, latin-1 or cp1252") from error


def _refuse_binary(path: Path, encoding: str) -> None:
    if codecs.lookup(_without_mark(encoding)).name.startswith(("utf-16", "utf-32")):
        return
    with path.open("rb") as stream:
        offset = stream.read(1 << 16).find(0)
    if offset >= 0:
        raise RequestError(
            f"{path} is not a text file: byte {offset:,} is zero; readable are text, .jsonl, .parquet and .tar files"
        )


def _first_bad_byte(path: Path, encoding: str) -> int:
    """Offset of the first byte that does not decode. Read again from the start: happens once, at the end."""
    decoder = codecs.getincrementaldecoder(encoding)()
    before = 0
    with path.open("rb") as stream:
        while piece := stream.read(_PIECE):
            pending = len(decoder.getstate()[0])
            try:
                decoder.decode(piece)
            except UnicodeDecodeError as error:
                return before - pending + error.start
            before += len(piece)
    return before - len(decoder.getstate()[0])
