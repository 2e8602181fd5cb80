"""The user's own text."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

from sedd_cli.errors import RequestError
from sedd_cli.text.corpora.base import Corpus, Request, Source, by_share


def _paragraphs(path: Path, encoding: str) -> Iterator[str]:
    lines: list[str] = []
    with path.open(encoding=encoding) as stream:
        for line in stream:
            if line.strip():
                lines.append(line)
            elif lines:
                yield "".join(lines).strip("\n")
                lines = []
    if lines:
        yield "".join(lines).strip("\n")


def _identity(request: Request) -> str:
    path = Path(request.corpus)
    if not path.is_file():
        raise RequestError(f"{path}: no such file")
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _open(request: Request) -> Source:
    path = Path(request.corpus)
    return Source(str(path), None, by_share(lambda: _paragraphs(path, request.encoding)))


def local_corpus(request: Request) -> Corpus:
    """The corpus that a file on this machine is."""
    return Corpus(
        name=Path(request.corpus).stem,
        about="your own text",
        size="",
        licence="yours to know",
        tokenizer="gpt2",
        open=_open,
        identity=_identity,
    )
