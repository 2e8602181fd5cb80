"""Archives of text files."""

from __future__ import annotations

import io
import lzma
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from sedd_cli.data.formats.plain import ReadOptions
from sedd_cli.errors import DamageError, RequestError

_NESTED = (".tar", ".xz", ".tgz", ".gz")
_BROKEN = (tarfile.TarError, lzma.LZMAError, zlib.error, EOFError, OSError)


def read_tar(path: Path, reading: ReadOptions) -> Iterator[str]:
    """Each .txt member of a tar (compressed or not) as one document.

    An archive inside the archive, as the first distribution of OpenWebText has them, is opened too, its
    members by name. The outer archive is read as it comes, since seeking in a compressed one costs too much.
    """
    try:
        with path.open("rb") as stream, tarfile.open(fileobj=stream, mode="r|*") as archive:
            for member in archive:
                yield from _member(archive, member, path, reading)
    except _BROKEN as error:
        raise DamageError(f"{path} is no tar archive, or a damaged one: {error}") from error


def _member(archive: tarfile.TarFile, member: tarfile.TarInfo, path: Path, reading: ReadOptions) -> Iterator[str]:
    if not member.isfile():
        return
    if member.name.endswith(".txt"):
        yield _decode(archive.extractfile(member).read(), f"{member.name} in {path}", reading)
    elif member.name.endswith(_NESTED):
        content = io.BytesIO(archive.extractfile(member).read())
        with tarfile.open(fileobj=content) as inner:
            for part in sorted(inner.getmembers(), key=lambda part: part.name):
                yield from _member(inner, part, path, reading)


def _decode(raw: bytes, where: str, reading: ReadOptions) -> str:
    try:
        return raw.decode(reading.encoding)
    except UnicodeDecodeError as error:
        raise RequestError(
            f"{where} is not {reading.encoding}: byte {error.start:,} does not decode; say what it is with --encoding"
        ) from error


def open_zip_member(path: Path, name: str) -> IO[bytes]:
    """One file inside a zip, open for reading; DamageError for a broken zip or one without it."""
    try:
        archive = zipfile.ZipFile(path)
        return archive.open(name)
    except (zipfile.BadZipFile, KeyError, OSError) as error:
        raise DamageError(f"{path} is no zip archive that holds {name}, or a damaged one: {error}") from error
