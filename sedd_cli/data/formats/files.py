"""Opening files for readers: compression by ending, text in any encoding, limits on what comes out."""

from __future__ import annotations

import bz2
import codecs
import dataclasses
import gzip
import lzma
import os
import select
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

from sedd_cli.errors import DamageError, RequestError, first_line, shortened
from sedd_cli.system.files import require_regular

#: Documents longer than this are cut, in every format, so that memory stays bounded.
LONGEST = 1 << 20
#: Most bytes of one line of JSON or of one row of a table.
LINE_BYTES = 1 << 28
#: Packed files may unpack to this many bytes for each of their own, and to EXPANDED_FREE in any case.
EXPANSION, EXPANDED_FREE = 200, 1 << 28
#: What the libraries raise for damaged compressed data.
BROKEN = (lzma.LZMAError, zlib.error, EOFError, OSError, ValueError)

#: Seconds without a byte after which what has arrived from a pipe is worked on.
MOMENT = 0.05

SEPARATIONS = ("auto", "blank", "line", "file")
_PIECE = 1 << 20
_OPENERS: dict[str, Callable[..., object]] = {".gz": gzip.open, ".xz": lzma.open, ".bz2": bz2.open}
COMPRESSED = tuple(_OPENERS)


class Tally:
    """What readers left out, by archive: how many members of which ending, and the first names."""

    def __init__(self) -> None:
        self.left_out: dict[str, tuple[Counter[str], list[str]]] = {}

    def remarks(self) -> list[str]:
        """One line for each archive."""
        lines = []
        for archive, (endings, names) in self.left_out.items():
            kinds = ", ".join(f"{count:,} {ending or 'without ending'}" for ending, count in endings.most_common(5))
            shown = ", ".join(shortened(name) for name in names)
            lines.append(f"{archive}: {sum(endings.values()):,} members were left out ({kinds}): {shown}, …")
        return lines


@dataclass(frozen=True)
class ReadOptions:
    """How files are read.

    field: key or column of the text, None for "text". encoding: of text files, tables and JSON. documents: what
    separates the documents of a text file: "blank" lines; every "line" is a document; the "file" is one document;
    "auto": blank lines if the first million characters contain one, else lines. format: one of FORMATS, or "auto" for
    the ending of the name. Documents are cut at a million characters, to bound memory. tally: what is left out.
    """

    field: str | None = None
    encoding: str = "utf-8"
    documents: str = "auto"
    format: str = "auto"
    tally: Tally = dataclasses.field(default_factory=Tally, compare=False, repr=False)


class Budget:
    """What a packed file may still unpack to."""

    def __init__(self, name: str, packed: int):
        self.name, self.packed = name, packed
        self.left = max(EXPANDED_FREE, EXPANSION * packed)

    def spend(self, size: int) -> None:
        """RequestError where more comes out than the limit allows."""
        self.left -= size
        if self.left < 0:
            raise RequestError(
                f"{self.name} unpacks to more than {EXPANSION} times its {self.packed:,} bytes (the limit EXPANSION): "
                "unpack it yourself if you trust it, and give the unpacked files"
            )


class _Counted:
    """A binary stream that spends a budget."""

    def __init__(self, stream: BinaryIO, budget: Budget | None):
        self._stream, self._budget = stream, budget

    def read(self, size: int) -> bytes:
        raw = getattr(self._stream, "read1", self._stream.read)(size)  # a pipe gives what it has
        if self._budget:
            self._budget.spend(len(raw))
        return raw


@dataclass(frozen=True)
class Input:
    """A file, or a member of an archive. name: for messages. open: its bytes, unpacked; called once for a member."""

    name: str
    open: Callable[[], BinaryIO]
    budget: Budget | None = None
    path: Path | None = None

    @classmethod
    def of(cls, path: Path) -> Input:
        """A file on disk, unpacked as its ending says; RequestError for what is no regular file."""
        require_regular(path, "the file to read")
        opener = _OPENERS.get(path.suffix.lower())
        if opener is None:
            return cls(str(path), lambda: path.open("rb"), None, path)
        return cls(
            str(path), lambda: cast("BinaryIO", opener(path, "rb")), Budget(str(path), path.stat().st_size), path
        )

    def unpacked(self, ending: str) -> Input:
        """A member of an archive whose name ends in this, unpacked where that is an ending of compressed files."""
        opener = _OPENERS.get(ending)
        if opener is None:
            return self
        return dataclasses.replace(self, open=lambda: cast("BinaryIO", opener(self.open(), "rb")))

    def pieces(self) -> Iterator[bytes]:
        """Its bytes in pieces; DamageError where it cannot be unpacked."""
        with self.open() as raw:
            stream = _Counted(raw, self.budget)
            while True:
                try:
                    piece = stream.read(_PIECE)
                except (RequestError, PermissionError):
                    raise
                except BROKEN as error:
                    raise DamageError(f"{self.name} cannot be read, it is damaged: {first_line(error)}") from None
                if not piece:
                    return
                yield piece


def decoded(source: Input, encoding: str) -> Iterator[str]:
    """The text in pieces, a byte order mark removed, CR LF as LF.

    RequestError for a binary file, and where a byte does not decode, with its offset.
    """
    codec = text_codec(encoding)
    decoder, before, held, first = codecs.getincrementaldecoder(codec)(), 0, "", True
    wide = codecs.lookup(codec).name.startswith(("utf-16", "utf-32"))
    for raw in source.pieces():
        if first and not wide and (offset := raw[: 1 << 16].find(0)) >= 0:
            raise RequestError(
                f"{source.name} is not a text file: byte {offset:,} is zero; readable are text, .jsonl, .parquet and "
                ".tar files"
            )
        first = False
        pending = len(decoder.getstate()[0])
        text = held + _decode(decoder, raw, False, before - pending, source.name, encoding)
        before += len(raw)
        held = "\r" if text.endswith("\r") else ""
        if text := text.removesuffix("\r").replace("\r\n", "\n"):
            yield text
    pending = len(decoder.getstate()[0])
    if text := held + _decode(decoder, b"", True, before - pending, source.name, encoding):
        yield text


def _decode(decoder: codecs.IncrementalDecoder, raw: bytes, final: bool, start: int, name: str, encoding: str) -> str:
    try:
        return decoder.decode(raw, final)
    except UnicodeError as error:
        at = error.start if isinstance(error, UnicodeDecodeError) else 0
        raise RequestError(
            f"{name} is not {encoding}: byte {start + at:,} does not decode; "
            "say what it is with --encoding, as in --encoding latin-1"
        ) from None


def text_codec(encoding: str) -> str:
    """The codec to use: for UTF-8 the one that also removes a byte order mark; RequestError for what is none."""
    try:
        found = codecs.lookup(encoding)
        if found._is_text_encoding:  # type: ignore[attr-defined]
            return "utf-8-sig" if found.name == "utf-8" else encoding
    except (LookupError, ValueError):
        pass
    raise RequestError(f"encoding {encoding!r} is not known to Python as one of text; try utf-8, latin-1 or cp1252")


def lines_of(texts: Iterator[str], longest: int) -> Iterator[str]:
    """Lines with their ends, by the line feed alone; a line longer than `longest` characters comes in pieces."""
    held: list[str] = []
    size = 0
    for text in texts:
        start = 0
        while start < len(text):
            stop = text.find("\n", start, start + longest - size)
            stop = min(start + longest - size, len(text)) if stop < 0 else stop + 1
            held.append(text[start:stop])
            size += stop - start
            if size >= longest or text[stop - 1] == "\n":
                yield "".join(held)
                held, size = [], 0
            start = stop
    if held:
        yield "".join(held)


def byte_lines(source: Input) -> Iterator[bytes]:
    """Lines with their ends, by the line feed alone; RequestError for one longer than LINE_BYTES."""
    return (line for line in _byte_lines(source.pieces(), source.name) if line is not None)


def live_lines(fd: int, name: str) -> Iterator[bytes | None]:
    """`byte_lines` of a pipe or a terminal; None says that nothing more has arrived for a MOMENT."""
    return _byte_lines(_live_pieces(fd), name)


def _live_pieces(fd: int) -> Iterator[bytes | None]:
    while True:
        if not select.select([fd], [], [], MOMENT)[0]:
            yield None
        if not (piece := os.read(fd, _PIECE)):  # waits
            return
        yield piece


def _byte_lines(pieces: Iterator[bytes] | Iterator[bytes | None], name: str) -> Iterator[bytes | None]:
    held: list[bytes] = []
    size = number = 0
    for piece in pieces:
        if piece is None:
            yield None
            continue
        *whole, rest = piece.split(b"\n")
        for part in whole:
            number += 1
            yield b"".join([*held, part, b"\n"])
            held, size = [], 0
        if rest:
            held.append(rest)
            size += len(rest)
        if size > LINE_BYTES:
            raise RequestError(
                f"line {number + 1:,} of {name} is longer than {LINE_BYTES >> 20} MiB (the limit LINE_BYTES)"
            )
    if held:
        yield b"".join(held)
