"""OpenWebText: pages that Reddit linked to, 8,013,769 documents. The last 100,000 are held out for validation."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

from sedd_cli.data.corpora.base import Corpus, Documents, Request, Source, one_after_another
from sedd_cli.data.corpora.files import files_under, identity_of
from sedd_cli.data.corpora.hub import HubCopy, UnreachableError, open_copies, rows_of
from sedd_cli.data.formats import RECORDS, ReadOptions, format_of, read_documents
from sedd_cli.errors import RequestError

HELD_OUT = 100_000
_COPIES = (
    HubCopy("Skylion007/openwebtext"),
    HubCopy("Skylion007/openwebtext", revision="refs/convert/parquet"),
)
_FILES = "parquet or jsonl files, a folder of .txt, or tar archives of .txt (openwebtext.tar.xz, urlsf_subset*.xz)"
_GAPS = re.compile(r"\n\n\n+")


def held_out(documents: int) -> int:
    """How many of so many documents are kept for validation: 100,000, or 5 % of a copy too small for that."""
    return min(HELD_OUT, documents // 20)


def _split(documents: Documents, count: int) -> dict[str, Documents]:
    edge = count - held_out(count)
    return {
        "train": lambda: itertools.islice(documents(), edge),
        "validation": lambda: itertools.islice(documents(), edge, None),
    }


def _page(file: Path, reading: ReadOptions) -> Iterator[str]:
    """Documents of one file; pages of the text distribution are cleaned as the hub's copy was."""
    documents = read_documents(file, reading)
    if format_of(file.name) in RECORDS:
        return documents
    return (_GAPS.sub("\n\n", document).strip() for document in documents)


def _files(path: Path) -> list[Path]:
    files = files_under(path, lambda file: format_of(file.name) is not None)
    if not files:
        raise RequestError(f"{path} holds none of openwebtext's files: {_FILES}")
    return files


def _local(request: Request, path: Path) -> Source:
    files = _files(path)
    reading = replace(request.reading(), as_stored=True)
    if any(format_of(file.name) == "text" for file in files):
        reading = replace(reading, documents="file")
    documents = one_after_another([partial(_page, file, reading) for file in files])
    count = sum(1 for _ in documents())  # the last documents are known only when all are counted
    if not count:
        raise RequestError(f"{path} holds no text")
    source = _source(str(path), None, documents, count, sum(file.stat().st_size for file in files))
    return replace(source, tally=reading.tally)


def _remote(request: Request) -> Source:
    try:
        location, revision, tables = open_copies(_COPIES, request)
    except UnreachableError as failure:
        raise RequestError(
            f"openwebtext could not be reached ({failure}); give a local copy: "
            f"sedd prepare openwebtext --from PATH, where PATH is {_FILES}"
        ) from failure
    if "train" not in tables:
        raise RequestError(f"{location} has no split train, only {', '.join(tables)}: use a local copy with --from")
    table = tables["train"]
    return _source(location, revision, partial(rows_of, table), len(table), table.data.nbytes)


def _source(location: str, revision: str | None, documents: Documents, count: int, size: int) -> Source:
    counts = {"train": count - held_out(count), "validation": held_out(count)}
    return Source(location, revision, _split(documents, count), counts, size)


def _open(request: Request) -> Source:
    source = _local(request, Path(request.local)) if request.local else _remote(request)
    return source.only(request.split)


def _identity(request: Request) -> str:
    if request.local:
        return identity_of(Path(request.local), _files(Path(request.local)))
    return f"{_COPIES[0].id}@{request.revision or _COPIES[0].revision}"


OPENWEBTEXT = Corpus(
    name="openwebtext",
    about="8 million web pages that Reddit linked to",
    size="40 GB",
    licence="CC0-1.0 (packaging)",
    tokenizer="gpt2",
    origin=f"https://huggingface.co/datasets/{_COPIES[0].id}",
    open=_open,
    identity=_identity,
    local=_FILES,
)
