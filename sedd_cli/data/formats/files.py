"""Opening files for readers: compression by ending, limits on what comes out, what is left out or lost."""

from __future__ import annotations

import bz2
import dataclasses
import gzip
import lzma
import tempfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

from sedd_cli.data.formats.choice import Choice
from sedd_cli.errors import DamageError, RequestError, first_line, listed
from sedd_cli.system.files import naming, require_regular
from sedd_cli.system.home import home

#: Documents longer than this are cut, in every format, so that memory stays bounded.
LONGEST = 1 << 20
#: Most bytes of one line of JSON or of one row of a table.
LINE_BYTES = 1 << 28
#: Packed files may unpack to this many bytes for each of their own, and to EXPANDED_FREE in any case.
EXPANSION, EXPANDED_FREE = 200, 1 << 28
#: What the libraries raise for damaged compressed data.
BROKEN = (lzma.LZMAError, zlib.error, EOFError, OSError, ValueError)

SEPARATIONS = ("auto", "blank", "line", "file")
_PIECE = 1 << 20
#: What has to be unpacked before it can be read is held in memory up to this size.
_IN_MEMORY = 1 << 26
_OPENERS: dict[str, Callable[..., object]] = {".gz": gzip.open, ".xz": lzma.open, ".bz2": bz2.open}
COMPRESSED = tuple(_OPENERS)
#: How kinds of compressed data are opened.
DECOMPRESSORS: dict[str, Callable[..., object]] = {"gzip": gzip.open, "xz": lzma.open, "bzip2": bz2.open}
#: How kinds of data that are no text begin.
_BEGINNINGS = {
    b"\x1f\x8b": "gzip", b"\xfd7zXZ\0": "xz", b"\x28\xb5\x2f\xfd": "zstandard", b"\x04\x22\x4d\x18": "lz4",
    b"PK\x03\x04": "zip", b"7z\xbc\xaf\x27\x1c": "7z", b"Rar!\x1a\x07": "RAR", b"Salted__": "encrypted (OpenSSL)",
    **{b"BZh%d1AY&SY" % level: "bzip2" for level in range(1, 10)},
}  # fmt: skip


def kind_of_data(beginning: bytes) -> str | None:
    """What data that begin like this are, if they are packed or encrypted; None for all else."""
    return next((kind for start, kind in _BEGINNINGS.items() if beginning.startswith(start)), None)


class Tally:
    """What readers left out or changed, by file."""

    def __init__(self) -> None:
        self.left_out: dict[str, Choice] = {}
        self.halves: dict[str, int] = {}
        self.repeated: dict[str, Counter[str]] = {}

    def remarks(self) -> list[str]:
        """One line for each file and kind of loss: members of archives, halves of surrogate pairs, repeated names."""
        lines = [f"{archive}: {choice.missing('members')}" for archive, choice in self.left_out.items()]
        for name, count in self.halves.items():
            lines.append(f"{name}: {count:,} halves of surrogate pairs, which UTF-8 cannot hold, became U+FFFD")
        for name, found in self.repeated.items():
            keys = listed([f"{key!r} ({count:,} times)" if count > 1 else repr(key) for key, count in found.items()], 5)
            lines.append(f"{name}: names that stand more than once in a record or table, none of them the text: {keys}")
        return lines


@dataclass(frozen=True)
class ReadOptions:
    """How files are read.

    field: key or column of the text, None for "text". encoding: of text files, tables and JSON. documents: what
    separates the documents of a text file: "blank" lines; every "line" is a document; the "file" is one document;
    "auto": blank lines if the first million characters contain one, else lines. format: one of FORMATS, or "auto" for
    the ending of the name. as_stored: members of tar archives are read in their own order, not in that of their names.
    Documents are cut at a million characters, to bound memory. tally: what is left out.
    """

    field: str | None = None
    encoding: str = "utf-8"
    documents: str = "auto"
    format: str = "auto"
    as_stored: bool = False
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


class Counted:
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
        """A file on disk, unpacked by its ending; RequestError for what is no regular file."""
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
        """Its bytes in pieces; DamageError where it cannot be unpacked, RequestError for packed data in it."""
        pieces = counted_pieces(self.open(), self.budget)
        try:
            for number, piece in enumerate(pieces):
                if number == 0 and (kind := kind_of_data(piece)) is not None:
                    raise RequestError(
                        f"{self.name} holds {kind} data, no text: unpack it (again), and give what it holds"
                    )
                yield piece
        except (RequestError, PermissionError):
            raise
        except BROKEN as error:
            raise DamageError(f"{self.name} cannot be read, it is damaged: {first_line(error)}") from None


def counted_pieces(stream: BinaryIO, budget: Budget | None) -> Iterator[bytes]:
    """The bytes of a stream in pieces, which spend the budget."""
    with stream:
        counted = Counted(stream, budget)
        while piece := counted.read(_PIECE):
            yield piece


def spooled(pieces: Iterator[bytes]) -> BinaryIO:
    """The pieces as a stream that can seek: in memory, or in a file without a name in the folder of `SEDD_HOME`."""
    with naming(home()):
        home().mkdir(parents=True, exist_ok=True)
        out = tempfile.SpooledTemporaryFile(_IN_MEMORY, dir=str(home()))  # noqa: SIM115  (the caller closes it)
    for piece in pieces:
        with naming(home()):
            out.write(piece)
    out.seek(0)
    return cast("BinaryIO", out)
