"""What a corpus is: a name, its usual tokenizer and clean-up, and a way to read its documents split by split."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from sedd_cli.data.formats import ReadOptions
from sedd_cli.errors import RequestError

if TYPE_CHECKING:
    import numpy as np

SPLITS = ("train", "validation", "test")
Documents = Callable[[], Iterator[str]]


@dataclass(frozen=True)
class Request:
    """Which text to read, and how. Only what the user gives changes from the defaults.

    corpus: a known name, a file, a folder, or a hub id. local: where the original files of a named corpus
    stand on this machine. split: read this split alone. revision, config: state and configuration of a hub
    dataset. field, encoding, documents: see ReadOptions.
    """

    corpus: str
    local: Path | None = None
    split: str | None = None
    revision: str | None = None
    config: str | None = None
    field: str | None = None
    encoding: str = "utf-8"
    documents: str = "auto"

    def reading(self, field: str | None = None) -> ReadOptions:
        """How to read files; `field` is the corpus's own, where the user names none."""
        return ReadOptions(self.field or field, self.encoding, self.documents)


@dataclass(frozen=True)
class Source:
    """A corpus that was found.

    splits: for each split, a function that reads its documents from the start. counts: the number of
    documents of a split, where it is known beforehand. location, revision: what was read. size: bytes of
    text, roughly, where known. remarks: what the user should be told.
    """

    location: str
    revision: str | None
    splits: dict[str, Documents]
    counts: dict[str, int] = field(default_factory=dict)
    size: int | None = None
    remarks: tuple[str, ...] = ()

    def only(self, split: str | None) -> Source:
        """This source with one split alone (None: with all); RequestError lists those there are."""
        if split is None:
            return self
        if split not in self.splits:
            raise RequestError(f"there is no split {split!r} in {self.location}; it has {', '.join(self.splits)}")
        return replace(self, splits={split: self.splits[split]})


@dataclass(frozen=True)
class Law:
    """What is known exactly of a corpus that is drawn from a law: a stationary process over characters.

    entropy_rate(): nats per character, the least that any model's bound can reach on long texts.
    block_entropy(length): nats of that many consecutive characters.
    nats(text): [characters] float64, -log p of each character given those before it in `text`, the first ones
    from the stationary law; inf where the law cannot have written it.
    """

    entropy_rate: Callable[[], float]
    block_entropy: Callable[[int], float]
    nats: Callable[[str], np.ndarray]


@dataclass(frozen=True)
class Corpus:
    """One corpus: what a user reads about it, its defaults, and how it is opened.

    identity(request) names the exact text without reaching any network; open(request) finds it. origin: the
    hub id or URL it comes from. local: the files that --from accepts. windows: its models train on random
    windows instead of packed blocks. law: the process that its text is drawn from, where there is one.
    """

    name: str
    about: str
    size: str
    licence: str
    tokenizer: str
    origin: str
    open: Callable[[Request], Source]
    identity: Callable[[Request], str]
    local: str = ""
    detokenizer: str = "none"
    windows: bool = False
    law: Law | None = None


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

    return {split: reader(split) for split in SPLITS}


def one_after_another(readers: list[Documents]) -> Documents:
    """The documents of several readers as one."""
    return lambda: (document for reader in readers for document in reader())
