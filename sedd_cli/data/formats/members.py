"""The members of a tar or zip archive, listed within limits: a small packed one can declare very many."""

from __future__ import annotations

import posixpath
import stat
import tarfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, BinaryIO, cast

#: Most members of an archive; each takes a kilobyte of memory.
MEMBERS = 1_000_000
#: Most bytes of the headers that a tar puts before a member, and most values that it sets for all members.
TAR_HEADER_BYTES, GLOBAL_VALUES = 1 << 20, 1_000
_EXTENDED = (
    tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK,
)  # fmt: skip


class LimitError(Exception):
    """An archive exceeds a limit; the message goes on after its name."""


@dataclass(frozen=True)
class Member:
    """A member of an archive. kind: what it is if it is no file that can be read, else ""."""

    name: str
    size: int
    open: Callable[[], BinaryIO]
    kind: str = ""
    encrypted: bool = False


def refuse_more(count: int) -> None:
    """LimitError for an archive of more members than MEMBERS."""
    if count > MEMBERS:
        raise LimitError(
            f"holds more than {MEMBERS:,} members (the limit MEMBERS): put many texts into one .jsonl file, a line "
            "each, or give the folder that unpacking makes"
        )


def is_zip(stream: BinaryIO) -> bool:
    """Whether a file begins as a zip does; the end of a tar may be a zip inside it."""
    stream.seek(0)
    return stream.read(4) in (b"PK\3\4", b"PK\5\6", b"PK\7\x08")


class _Listed(list[zipfile.ZipInfo]):
    def append(self, member: zipfile.ZipInfo) -> None:
        refuse_more(len(self) + 1)
        super().append(member)


class _Zip(zipfile.ZipFile):
    """A zip that is refused while it is listed: zipfile appends to its `filelist`."""

    def __setattr__(self, key: str, value: Any) -> None:
        super().__setattr__(key, _Listed(value) if key == "filelist" else value)


def zip_members(stream: BinaryIO) -> list[Member]:
    """The members of a zip without its folders."""
    archive = _Zip(stream)
    return [
        Member(
            member_name(info.filename),
            info.file_size,
            cast("Callable[[], BinaryIO]", lambda info=info: archive.open(info)),
            _kind_of_mode(info.external_attr >> 16),
            bool(info.flag_bits & 1),
        )
        for info in archive.infolist()
        if not info.is_dir()
    ]


class Header(tarfile.TarInfo):
    """A header of a tar whose additions, which are held in memory, are bounded."""

    def _proc_member(self, archive: tarfile.TarFile) -> tarfile.TarInfo:  # the method that subclasses may replace
        if self.type in _EXTENDED and self.size > TAR_HEADER_BYTES:
            raise LimitError(f"has a header of more than {TAR_HEADER_BYTES >> 20} MiB (the limit TAR_HEADER_BYTES)")
        if len(archive.pax_headers) > GLOBAL_VALUES:
            raise LimitError(f"sets more than {GLOBAL_VALUES:,} values for all members (the limit GLOBAL_VALUES)")
        found = super()._proc_member(archive)  # type: ignore[misc]
        found.pax_headers = {}  # what reading needs of them is applied
        return found


def tar_members(stream: BinaryIO) -> list[Member]:
    """The members of a tar without its folders."""
    stream.seek(0)
    archive = tarfile.open(fileobj=stream, mode="r:", tarinfo=Header)  # noqa: SIM115  (members are read later)
    found: list[Member] = []
    for count, info in enumerate(archive, 1):
        refuse_more(count)
        archive.members = []  # type: ignore[attr-defined]  (tarfile would keep every header, those of folders too)
        if not info.isdir():
            opened = cast("Callable[[], BinaryIO]", lambda info=info: archive.extractfile(info))
            found.append(Member(member_name(info.name), info.size, opened, kind_in_tar(info)))
    return found


def member_name(name: str) -> str:
    """A member's path below the root of its archive."""
    return posixpath.normpath(name.replace("\0", "")).lstrip("/").removeprefix("../") or name


def _kind_of_mode(mode: int) -> str:
    kind = stat.S_IFMT(mode)
    return "symbolic links" if kind == stat.S_IFLNK else "" if kind in (0, stat.S_IFREG) else "devices or pipes"


def kind_in_tar(info: tarfile.TarInfo) -> str:
    """What a member is that is no file; "" for a file and a folder."""
    if info.issym() or info.islnk():
        return "symbolic links" if info.issym() else "hard links"
    return "" if info.isfile() or info.isdir() else "devices or pipes"
