"""A corpus: its name, default tokenizer and detokenizer, and a function that reads its documents split by split."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from sedd_cli.data.formats import ReadOptions
from sedd_cli.data.formats.files import LONGEST, Tally
from sedd_cli.data.manifest import SPLITS
from sedd_cli.errors import RequestError

if TYPE_CHECKING:
    import numpy as np

#: How a text without splits can be divided.
HOLD_OUT = ("hash", "tail")
Documents = Callable[[], Iterator[str]]


@dataclass(frozen=True)
class Request:
    """Which text to read, and how.

    corpus: a known name, a file, a folder, or a hub id. local: path of the original files of a named corpus. split:
    read this split alone. revision, config: version and configuration of a hub dataset. field, encoding, documents,
    format: see ReadOptions. hold_out: how one's own text without splits is divided, "hash" (`by_share`) or "tail"
    (`by_tail`).
    """

    corpus: str
    local: Path | None = None
    split: str | None = None
    revision: str | None = None
    config: str | None = None
    field: str | None = None
    encoding: str = "utf-8"
    documents: str = "auto"
    format: str = "auto"
    hold_out: str = "hash"

    def reading(self, field: str | None = None) -> ReadOptions:
        """How to read files; `field` is the corpus's default."""
        return ReadOptions(self.field or field, self.encoding, self.documents, self.format)


@dataclass(frozen=True)
class Source:
    """An opened corpus.

    splits: for each split, a function that reads its documents from the start. counts: documents per split, where known
    in advance. location, revision: what was read. size: approximate bytes of text, if known. remarks: warnings for the
    user. notes: decisions that names and endings made. tally: what the readers leave out, once they have read.
    """

    location: str
    revision: str | None
    splits: dict[str, Documents]
    counts: dict[str, int] = field(default_factory=dict)
    size: int | None = None
    remarks: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    tally: Tally = field(default_factory=Tally)

    def only(self, split: str | None) -> Source:
        """This source with one split alone (None: with all); RequestError lists the existing ones."""
        if split is None:
            return self
        if split not in self.splits:
            raise RequestError(f"there is no split {split!r} in {self.location}; it has {', '.join(self.splits)}")
        return replace(self, splits={split: self.splits[split]})


@dataclass(frozen=True)
class StochasticProcess:
    """The stationary process over characters that a synthetic corpus is drawn from.

    entropy_rate(): nats per character, a lower limit on every model's bound on long texts.
    block_entropy(length): nats of that many consecutive characters.
    nats(text): [characters] float64, -log p of each character given those before it in `text`, the first ones
    from the stationary distribution; inf for impossible characters.
    """

    entropy_rate: Callable[[], float]
    block_entropy: Callable[[int], float]
    nats: Callable[[str], np.ndarray]


@dataclass(frozen=True)
class Corpus:
    """One corpus: its description, its defaults, and how it is opened.

    identity(request) identifies the exact text without network; open(request) finds it. origin: the hub id or URL it
    comes from. local: the files that --from accepts. windows: random windows suit it better than packed blocks;
    for information only, since recipes choose by `data.windows`. process: the process that its text is drawn from, if
    known. prepared: its folder, where the request names one that `sedd prepare` made. why: the reason for its
    tokenizer, for a note where none was named.
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
    process: StochasticProcess | None = None
    prepared: Path | None = None
    why: str = ""


def share_of(document: str) -> str:
    """The split of a document by a hash of its text: 90 % train, 5 % validation, 5 % test.

    It does not depend on the order of documents, and equal documents fall into one split.
    """
    word = int.from_bytes(hashlib.blake2b(document.encode("utf-8"), digest_size=8).digest(), "big")
    share = word / 2**64
    return "train" if share < 0.90 else "validation" if share < 0.95 else "test"


def by_share(documents: Documents) -> dict[str, Documents]:
    """The three splits of a corpus without splits of its own.

    The parts of a document that is longer than LONGEST follow its first part into one split.
    """

    def reader(split: str) -> Iterator[str]:
        chosen, followed = "", False
        for document in documents():
            chosen = chosen if followed else share_of(document)
            followed = len(document) == LONGEST
            if chosen == split:
                yield document

    return {split: functools.partial(reader, split) for split in SPLITS}


def by_tail(documents: Documents) -> dict[str, Documents]:
    """Training text, and the last tenth of the characters for validation, in one piece.

    The document at the border is cut. A text that is one document is divided as nanoGPT divides Shakespeare: a document
    that came in parts, because it is longer than LONGEST, is put together again, and cut from its own beginning.
    """

    @functools.cache
    def border() -> int:
        return int(0.9 * sum(map(len, documents())))

    def reader(train: bool) -> Iterator[str]:
        left, held = border(), ""
        for document in documents():
            head, tail = document[:left], document[left:]
            left -= len(head)
            held += head if train else tail
            while len(held) >= LONGEST:
                yield held[:LONGEST]
                held = held[LONGEST:]
            if held and len(document) < LONGEST:  # no part that another follows
                yield held
                held = ""
        if held:
            yield held

    return {"train": lambda: reader(True), "validation": lambda: reader(False)}


def one_after_another(readers: list[Documents]) -> Documents:
    """The documents of several readers in turn."""
    return lambda: (document for reader in readers for document in reader())
