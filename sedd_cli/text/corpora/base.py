"""What a corpus is: a name, its usual tokenizer and clean-up, and a way to read its documents split by split."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

Documents = Callable[[], Iterator[str]]


@dataclass(frozen=True)
class Request:
    """Which text to read, and how. Only what the user gives changes from the defaults.

    corpus: a known name, a file, a folder, or a hub id. local: where the original files of a named corpus
    stand on this machine. split: read this split alone. revision, config: state and configuration of a hub
    dataset. field: key or column that holds the text. encoding: of text files. documents: what separates
    the documents of a text file, one of "auto", "blank", "line", "file".
    """

    corpus: str
    local: Path | None = None
    split: str | None = None
    revision: str | None = None
    config: str | None = None
    field: str | None = None
    encoding: str = "utf-8"
    documents: str = "auto"


@dataclass(frozen=True)
class Source:
    """A corpus that was found: `splits` gives, for each split, a function that reads its documents from the
    start; `counts` the number of documents where it is known beforehand; location and revision say what was
    read."""

    location: str
    revision: str | None
    splits: dict[str, Documents]
    counts: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Corpus:
    """One corpus: what a user reads about it, its defaults, and how it is opened.

    identity(request) names the exact text without reaching any network; open(request) finds it.
    windows: its models train on random windows (text8) instead of packed blocks.
    """

    name: str
    about: str
    size: str
    licence: str
    tokenizer: str
    open: Callable[[Request], Source]
    identity: Callable[[Request], str]
    detokenizer: str = "none"
    windows: bool = False


def share_of(document: str) -> str:
    """The split a document belongs to, 90 % train, 5 % validation, 5 % test, by its text alone.

    The order of documents plays no part, and equal documents are never on both sides.
    """
    word = int.from_bytes(hashlib.blake2b(document.encode("utf-8"), digest_size=8).digest(), "big")
    share = word / 2**64
    return "train" if share < 0.90 else "validation" if share < 0.95 else "test"


def by_share(documents: Documents) -> dict[str, Documents]:
    """The three splits of a corpus that comes without any."""

    def reader(split: str) -> Documents:
        return lambda: (document for document in documents() if share_of(document) == split)

    return {split: reader(split) for split in ("train", "validation", "test")}
