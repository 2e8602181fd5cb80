"""Archives of files: tar, compressed or not, and zip. Their members are read as files of their endings are."""

from __future__ import annotations

import dataclasses
import io
import tarfile
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, BinaryIO, cast

from sedd_cli.data.formats.files import COMPRESSED, Budget, Input, ReadOptions
from sedd_cli.errors import DamageError, RequestError, WorkError, first_line

#: Most bytes of an archive inside an archive, which is held in memory, and the most levels of them.
NESTED_BYTES, NESTED = 1 << 28, 3

#: Reads a member, or None where nothing reads files of its ending.
ReadMember = Callable[[Input, ReadOptions], Iterator[str] | None]


@dataclasses.dataclass
class Archive:
    """An archive that is being read."""

    name: str
    budget: Budget
    read: ReadMember
    reading: ReadOptions
    left_out: Counter[str] = dataclasses.field(default_factory=Counter)
    names: list[str] = dataclasses.field(default_factory=list)

    def member(self, name: str, where: str, open_member: Callable[[], BinaryIO], depth: int) -> Iterator[str]:
        """The documents of one member."""
        lower = name.lower()
        if lower.endswith((".tar", ".tgz", ".zip")) or (lower.endswith(COMPRESSED) and not _inner(lower)):
            yield from self._nested(where, open_member, depth)
            return
        found = self.read(Input(f"{name} in {where}", open_member, self.budget), self.reading)
        if found is None:
            self.left_out[Path(lower).suffix] += 1
            if len(self.names) < 3:
                self.names.append(name)
            return
        yield from found

    def _nested(self, where: str, open_member: Callable[[], BinaryIO], depth: int) -> Iterator[str]:
        if depth >= NESTED:
            raise RequestError(f"{where} holds archives nested deeper than {NESTED} (the limit NESTED)")
        with open_member() as stream:
            raw = stream.read(NESTED_BYTES + 1)
        if len(raw) > NESTED_BYTES:
            raise RequestError(f"{where} holds an archive above {NESTED_BYTES >> 20} MiB (the limit NESTED_BYTES)")
        if zipfile.is_zipfile(io.BytesIO(raw)):
            yield from self.zip(io.BytesIO(raw), where, depth + 1)
            return
        with tarfile.open(fileobj=io.BytesIO(raw)) as inner:
            for part in sorted(inner.getmembers(), key=lambda part: part.name):
                yield from self._tar_member(inner, part, where, depth + 1)

    def tar(self, stream: BinaryIO) -> Iterator[str]:
        """The members of a tar in its own order, since seeking in a compressed file is slow."""
        with tarfile.open(fileobj=stream, mode="r|*") as archive:
            for member in archive:
                yield from self._tar_member(archive, member, self.name, 0)
                archive.members = []  # type: ignore[attr-defined]  (tarfile would keep every header)

    def _tar_member(self, archive: tarfile.TarFile, member: tarfile.TarInfo, where: str, depth: int) -> Iterator[str]:
        if member.isfile():
            opened = cast("Callable[[], BinaryIO]", lambda: archive.extractfile(member))
            yield from self.member(member.name, where, opened, depth)

    def zip(self, stream: BinaryIO, where: str, depth: int) -> Iterator[str]:
        """The members of a zip in the order of its directory."""
        with zipfile.ZipFile(stream) as archive:
            for member in archive.infolist():
                if not member.is_dir():
                    opened = cast("Callable[[], BinaryIO]", lambda member=member: archive.open(member))
                    yield from self.member(member.filename, where, opened, depth)


def _inner(name: str) -> str:
    return Path(Path(name).stem).suffix


def read_archive(source: Input, reading: ReadOptions, read: ReadMember) -> Iterator[str]:
    """The documents of the members of a tar or a zip. Members that nothing reads are counted in `reading.tally`.

    Archives inside the archive, as in the first distribution of OpenWebText, are opened too, and their members sorted
    by name.
    """
    assert source.path is not None, "archives inside archives are read with the outer one"
    archive = Archive(source.name, Budget(source.name, source.path.stat().st_size), read, reading)
    try:
        with source.path.open("rb") as stream:
            if zipfile.is_zipfile(stream):
                yield from archive.zip(stream, source.name, 0)
            else:
                stream.seek(0)
                yield from archive.tar(stream)
    except (RequestError, WorkError):
        raise
    except Exception as error:  # damaged archives fail in many ways
        raise DamageError(f"{source.name} is no tar archive or zip, or a damaged one: {first_line(error)}") from error
    if archive.left_out:
        reading.tally.left_out[source.name] = archive.left_out, archive.names


def open_zip_member(path: Path, name: str) -> IO[bytes]:
    """One file inside a zip, open for reading; DamageError for a broken zip or one without it."""
    try:
        archive = zipfile.ZipFile(path)
        return archive.open(name)
    except (zipfile.BadZipFile, KeyError, OSError, RuntimeError, NotImplementedError, ValueError) as error:
        raise DamageError(f"{path} is no zip archive that holds {name}, or a damaged one: {error}") from error
