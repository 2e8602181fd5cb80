"""Archives of files: tar, compressed or not, and zip. They are read as a folder of their members would be."""

from __future__ import annotations

import dataclasses
import io
import tarfile
import weakref
import zipfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import IO, BinaryIO, cast

from sedd_cli.data.formats.choice import Choice, choose, hidden_entry, is_paper
from sedd_cli.data.formats.files import (
    DECOMPRESSORS,
    Budget,
    Counted,
    Input,
    ReadOptions,
    counted_pieces,
    kind_of_data,
    spooled,
)
from sedd_cli.data.formats.members import (
    Header,
    LimitError,
    Member,
    is_zip,
    kind_in_tar,
    member_name,
    refuse_more,
    tar_members,
    zip_members,
)
from sedd_cli.errors import DamageError, RequestError, WorkError, first_line, listed

#: Most bytes of an archive inside an archive, which is held in memory, and the most levels of them.
NESTED_BYTES, NESTED = 1 << 28, 3


@dataclasses.dataclass(frozen=True)
class Readers:
    """How members are read: which names are, whether a name is one of an archive, and the documents of a member."""

    accepted: Callable[[str], bool]
    is_archive: Callable[[str], bool]
    read: Callable[[str, Input, ReadOptions], Iterator[str]]


class Archive:
    """A tar or zip archive whose members can be read in any order.

    A compressed tar is unpacked first, into memory or into a file without a name in the folder of `SEDD_HOME`, since
    seeking in compressed data is slow. Of members of equal names the last is read, as unpacking would leave it.

    Raises RequestError for what is no archive that can be read, and DamageError for a damaged one.
    """

    def __init__(
        self, name: str, stream: BinaryIO, packed: int, readers: Readers, depth: int = 0, budget: Budget | None = None
    ):
        self.name, self._packed, self._readers, self._depth = name, packed, readers, depth
        with _damage(name):
            stream = _unpacked(name, stream, budget or Budget(name, packed))
            found = zip_members(stream) if is_zip(stream) else tar_members(stream)
        self._found = {member.name: member for member in found}
        self._replaced = [name for name, count in Counter(member.name for member in found).items() if count > 1]
        weakref.finalize(self, stream.close)

    @classmethod
    def of(cls, path: Path, readers: Readers) -> Archive:
        """The archive that a file on disk is; the file stays open."""
        return cls(str(path), path.open("rb"), path.stat().st_size, readers)

    @cached_property
    def choice(self) -> Choice:
        """The members that are read, and what is left out. RequestError where one that would be read is encrypted."""
        other = {member.name: member.kind for member in self._found.values() if member.kind}
        choice = choose(self._found, self._readers.accepted, other)
        if self._replaced:
            choice.left_out["replaced by a later one of its name"] += len(self._replaced)
            choice.shown.extend(self._replaced)
        if locked := [name for name in choice.names if self._found[name].encrypted]:
            raise RequestError(
                f"{self.name} is encrypted ({listed(locked, 3)}): unpack it with its password, and give the unpacked "
                "files"
            )
        return choice

    @property
    def size(self) -> int:
        """Unpacked bytes of the members that are read."""
        return sum(self._found[name].size for name in self.choice.names)

    def documents(self, names: Iterable[str], reading: ReadOptions, budget: Budget | None = None) -> Iterator[str]:
        """The documents of some members."""
        budget = budget or Budget(self.name, self._packed)
        with _damage(self.name):
            for name in names:
                yield from _read(self._found[name], self.name, self._depth, self._readers, reading, budget)

    def all_documents(self, reading: ReadOptions, budget: Budget | None = None) -> Iterator[str]:
        """The documents of an archive that is one file among others: a text is one unless a separation is named.

        What is left out is kept in `reading.tally`.
        """
        yield from self.documents(self.choice.names, _within(reading), budget)
        if self.choice.left_out:
            reading.tally.left_out[self.name] = self.choice


def _within(reading: ReadOptions) -> ReadOptions:
    return dataclasses.replace(reading, documents="file") if reading.documents == "auto" else reading


def _read(
    member: Member, where: str, depth: int, readers: Readers, reading: ReadOptions, budget: Budget
) -> Iterator[str]:
    """The documents of one member of the archive `where`."""
    name = f"{member.name} in {where}"
    if not readers.is_archive(member.name):
        yield from readers.read(member.name, Input(name, member.open, budget), reading)
        return
    if depth >= NESTED:
        raise RequestError(f"{where} holds archives nested deeper than {NESTED} (the limit NESTED)")
    with member.open() as stream:
        raw = stream.read(NESTED_BYTES + 1)
    if len(raw) > NESTED_BYTES:
        raise RequestError(f"{where} holds an archive above {NESTED_BYTES >> 20} MiB (the limit NESTED_BYTES)")
    yield from Archive(name, io.BytesIO(raw), len(raw), readers, depth + 1, budget).all_documents(reading, budget)


def _unpacked(name: str, stream: BinaryIO, budget: Budget) -> BinaryIO:
    """The stream itself, or what it holds where it is compressed."""
    stream.seek(0)
    kind = kind_of_data(stream.read(64))
    stream.seek(0)
    if kind not in DECOMPRESSORS:
        if kind is not None and kind != "zip":
            raise RequestError(f"{name} holds {kind} data, no tar archive or zip: unpack it, and give what it holds")
        return stream
    out = spooled(counted_pieces(cast("BinaryIO", DECOMPRESSORS[kind](stream, "rb")), budget))
    inner = kind_of_data(out.read(64))
    if inner is not None and inner != "zip":
        raise RequestError(f"{name} is compressed twice, as {inner} data in {kind} data: unpack it once, and give that")
    return out


@contextmanager
def _damage(name: str) -> Iterator[None]:
    """DamageError for whatever the libraries raise for a damaged archive."""
    try:
        yield
    except LimitError as error:
        raise RequestError(f"{name} {error}") from None
    except (RequestError, WorkError):
        raise
    except (MemoryError, OverflowError):
        raise DamageError(f"{name} is damaged or too large: it declares more bytes than memory holds") from None
    except OSError as error:
        if error.filename:  # of the file that an archive is unpacked into
            raise
        raise _damaged(name, error) from error
    except Exception as error:  # damaged archives fail in many ways
        raise _damaged(name, error) from error


def _damaged(name: str, error: Exception) -> DamageError:
    return DamageError(f"{name} is no tar archive or zip, or a damaged one: {first_line(error)}")


def read_as_stored(path: Path, reading: ReadOptions, readers: Readers) -> Iterator[str]:
    """The documents of a tar of any size in its own order, without unpacking it first.

    Archives inside it are read in the order of their members' names.
    """
    name, packed, within = str(path), path.stat().st_size, _within(reading)
    budget = Budget(name, packed)  # of what members unpack to
    left: dict[str, str] = {}
    papers = others = False
    with _damage(name), path.open("rb") as raw, _spending(raw, Budget(name, packed)) as archive:
        for info in archive:
            refuse_more(len(left))
            member, kind = member_name(info.name), kind_in_tar(info)
            text = not (kind or info.isdir() or hidden_entry(member)) and readers.accepted(member)
            if text and not is_paper(member):
                others = True
                opened = cast("Callable[[], BinaryIO]", lambda info=info: archive.extractfile(info))
                yield from _read(Member(member, info.size, opened), name, 0, readers, within, budget)
            elif not info.isdir():
                left[member] = kind
                papers |= text
            archive.members = []  # type: ignore[attr-defined]  (tarfile would keep every header)
    if papers and not others:  # then they are the data
        yield from Archive.of(path, readers).all_documents(reading)
    elif left:
        reading.tally.left_out[name] = choose(left, lambda _: False, {k: kind for k, kind in left.items() if kind})


def _spending(raw: BinaryIO, budget: Budget) -> tarfile.TarFile:
    """A tar, compressed or not, as a stream; what is unpacked spends the budget, also what is passed over."""
    kind = kind_of_data(raw.read(64))
    raw.seek(0)
    if kind in DECOMPRESSORS:
        raw = cast("BinaryIO", Counted(cast("BinaryIO", DECOMPRESSORS[kind](raw, "rb")), budget))
    return tarfile.open(fileobj=raw, mode="r|", tarinfo=Header)


def open_zip_member(path: Path, name: str) -> IO[bytes]:
    """One file inside a zip, open for reading; DamageError for a broken zip or one without it."""
    try:
        archive = zipfile.ZipFile(path)
        return archive.open(name)
    except (zipfile.BadZipFile, KeyError, OSError, RuntimeError, NotImplementedError, ValueError) as error:
        raise DamageError(f"{path} is no zip archive that holds {name}, or a damaged one: {error}") from error
