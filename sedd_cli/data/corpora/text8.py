"""text8: the first 100 million characters of a cleaned Wikipedia, a to z and the space; 90 / 5 / 5 million."""

from __future__ import annotations

import os
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import IO, Any

from sedd_cli.data.corpora.base import Corpus, Documents, Request, Source
from sedd_cli.data.corpora.download import download
from sedd_cli.data.corpora.files import files_under, identity_of
from sedd_cli.data.corpora.hub import HubCopy, UnreachableError, open_copies, rows_of
from sedd_cli.data.formats.archives import open_zip_member
from sedd_cli.errors import DamageError, RequestError, first_line

SIZES = {"train": 90_000_000, "validation": 5_000_000, "test": 5_000_000}
_COPY = HubCopy("afmck/text8")
_URL = "http://mattmahoney.net/dc/text8.zip"
_ZIP_BYTES = 31_344_016
_PIECE = 1_000_000
_FILES = "text8 or text8.zip"


@contextmanager
def _opened(path: Path) -> Iterator[IO[bytes]]:
    """The characters of a local copy; DamageError where it turns out to be damaged."""
    with open_zip_member(path, "text8") if path.suffix == ".zip" else path.open("rb") as stream:
        try:
            yield stream
        except (zlib.error, zipfile.BadZipFile, EOFError) as error:
            raise DamageError(f"{path} is damaged: {first_line(error)}") from error


def _characters(path: Path, start: int, size: int) -> Iterator[str]:
    """A stretch of the file in pieces of a million characters; without a separator they join seamlessly."""
    with _opened(path) as stream:
        stream.seek(start)
        while size:
            piece = stream.read(min(_PIECE, size))
            if not piece:
                raise DamageError(
                    f"{path} ends {size:,} characters too early: text8 has exactly {sum(SIZES.values()):,}"
                )
            size -= len(piece)
            yield piece.decode("latin-1")


def _stretches(path: Path) -> dict[str, Documents]:
    starts = {"train": 0, "validation": SIZES["train"], "test": SIZES["train"] + SIZES["validation"]}
    return {split: partial(_characters, path, starts[split], size) for split, size in SIZES.items()}


def _find(path: Path) -> Path:
    files = files_under(path, lambda file: file.name in ("text8", "text8.zip"))
    if not files:
        raise RequestError(f"{path} holds no {_FILES}")
    return files[0]


def _file_source(path: Path) -> Source:
    total = sum(SIZES.values())
    with _opened(path) as stream:
        if (found := stream.seek(0, os.SEEK_END)) > total:
            raise DamageError(f"{path} has {found:,} characters: text8 has exactly {total:,}")
    return Source(str(path), None, _stretches(path), size=total)


def _remote(request: Request) -> Source:
    try:
        location, revision, tables = open_copies((_COPY,), request)
    except UnreachableError as failure:
        return _by_url(failure)
    splits = {split: partial(_counted, tables[split], split) for split in SIZES if split in tables}
    return Source(location, revision, splits, size=sum(SIZES.values()))


def _counted(table: Any, split: str) -> Iterator[str]:
    """The hub's rows, one after another; refused if they are not the benchmark's number of characters."""
    found = 0
    for row in rows_of(table):
        found += len(row)
        yield row
    if found != SIZES[split]:
        raise DamageError(
            f"the hub's copy of text8 has {found:,} characters in {split} instead of {SIZES[split]:,}; "
            "use the original: sedd prepare text8 --from text8.zip"
        )


def _by_url(failure: UnreachableError) -> Source:
    try:
        return _file_source(download(_URL, _ZIP_BYTES))
    except UnreachableError as last:
        raise RequestError(
            f"text8 could not be reached ({failure}; {last}); give a local copy: "
            f"sedd prepare text8 --from PATH, where PATH is {_FILES}"
        ) from last


def _open(request: Request) -> Source:
    source = _file_source(_find(Path(request.local))) if request.local else _remote(request)
    return source.only(request.split)


def _identity(request: Request) -> str:
    if request.local:
        path = _find(Path(request.local))
        return identity_of(path, [path])
    return f"{_COPY.id}@{request.revision or _COPY.revision}"


TEXT8 = Corpus(
    name="text8",
    about="Wikipedia in 27 symbols, 90/5/5 million characters",
    size="100 MB",
    licence="CC-BY-SA-3.0",
    tokenizer="text8",
    origin=f"https://huggingface.co/datasets/{_COPY.id}, else {_URL}",
    open=_open,
    identity=_identity,
    local=_FILES,
    windows=True,
)
