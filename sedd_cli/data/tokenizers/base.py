"""The interface of all tokenizers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from sedd_cli.errors import RequestError, WorkError
from sedd_cli.system.digests import digest
from sedd_cli.system.files import write_whole
from sedd_cli.system.json_lines import json_text

FILE = "tokenizer.json"
FORMAT = 1


class Tokenizer(ABC):
    """A map between text and token ids in [0, vocab_size).

    spec: what the user typed when the tokenizer was made ("bpe:4096", "gpt2").
    vocab_size: the number N of ids.
    eos: id that separates documents, or None where the vocabulary has none (text8).
    unknown: id of everything the vocabulary cannot express, or None where it expresses everything.
    named: whether the spec alone identifies the tokenizer, on any machine.

    Encoding never adds special ids, and treats text that spells a special token as ordinary text.
    """

    kind: ClassVar[str]
    named: ClassVar[bool] = True
    #: What the ids are in the order of ("code points"), or None where their order means nothing.
    order: ClassVar[str | None] = None
    #: Whether decoding gives back every text without unknown characters.
    restores_text: bool = True
    separator: str = "\n\n"

    def __init__(self, spec: str, vocab_size: int, eos: int | None, unknown: int | None = None):
        self.spec = spec
        self.vocab_size = vocab_size
        self.eos = eos
        self.unknown = unknown

    @property
    def bos(self) -> int | None:
        """The id that begins a text: a special token of its own, or `eos`."""
        return self.eos

    def separated_by(self, token: str) -> Tokenizer:
        """This tokenizer with another token between documents; RequestError where it has none, or its own."""
        raise RequestError(f"--eos has no effect on {self.spec}, which has its own separator")

    @property
    def ids(self) -> str:
        """Identifies the vocabulary: equal for tokenizers that give each text the same ids."""
        return self.spec if self.named else self.fingerprint

    @abstractmethod
    def encode_arrays(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Ids of each text, one unsigned array [tokens] per text. Implemented by subclasses."""

    @abstractmethod
    def decode_run(self, ids: np.ndarray) -> str:
        """Text of ids [n] that are in range and hold no `eos`. Implemented by subclasses."""

    @abstractmethod
    def state(self) -> dict[str, Any]:
        """Everything that determines the map between text and ids, as JSON values for `from_state`."""

    @classmethod
    @abstractmethod
    def from_state(cls, spec: str, state: dict[str, Any]) -> Tokenizer:
        """The tokenizer of a `state`."""

    def encode(self, text: str) -> list[int]:
        """Ids of `text`; no special ids are added, and "<|endoftext|>" is ordinary text."""
        return self.encode_arrays([text])[0].tolist()

    def unknown_parts(self, text: str) -> list[str]:
        """The parts of a text that the vocabulary lacks."""
        return [c for c in text if self.unknown is not None and self.unknown in self.encode(c)]

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """`encode` of each text."""
        return [ids.tolist() for ids in self.encode_arrays(texts)]

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        """Text of `ids`. An `eos` becomes an empty line between documents.

        Ids that end in the middle of a character give U+FFFD there. Raises RequestError for an id outside
        the vocabulary.
        """
        array = np.asarray(ids, dtype=np.int64).reshape(-1)
        if array.size and (array.min() < 0 or array.max() >= self.vocab_size):
            wrong = int(array[(array < 0) | (array >= self.vocab_size)][0])
            raise RequestError(
                f"token id {wrong} is outside the vocabulary of {self.spec}: ids run from 0 to {self.vocab_size - 1}"
            )
        if self.eos is None:
            return self.decode_run(array)
        cuts = np.flatnonzero(array == self.eos)
        starts, stops = [0, *(cuts + 1)], [*cuts, array.size]
        return self.separator.join(self.decode_run(array[i:j]) for i, j in zip(starts, stops, strict=True))

    @cached_property
    def fingerprint(self) -> str:
        """sha256 over everything that determines the ids of every text (`identity`)."""
        return digest({"kind": self.kind, **self.identity()})

    def identity(self) -> dict[str, Any]:
        """The content of the fingerprint: by default the state."""
        return self.state()

    @cached_property
    def joins_spaces(self) -> bool:
        """Whether a space and the word after it form one token, tried on common words."""
        words = ("a", "the", "of", "and", "in", "to", "is", "he", "s", "t")
        try:
            return any(self.encode(f"a {w}") != [*self.encode("a "), *self.encode(w)] for w in words)
        except (RequestError, WorkError):  # the vocabulary lacks these words
            return False

    @cached_property
    def keeps_spaces(self) -> bool:
        """Whether spaces at the ends of a text survive encoding and decoding (not with BERT)."""
        try:
            return self.decode(self.encode(" a ")) == " a "
        except (RequestError, WorkError):
            return True

    def save(self, folder: Path) -> None:
        """Write `tokenizer.json` into `folder`: one self-contained file, which loads without network."""
        record = {
            "format": FORMAT,
            "kind": self.kind,
            "spec": self.spec,
            "fingerprint": self.fingerprint,
            "state": self.state(),
        }
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(folder / FILE, json_text(record) + "\n")

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.spec!r}, vocab_size={self.vocab_size}, eos={self.eos})"


class TrainedTokenizer(Tokenizer):
    """A tokenizer with a vocabulary learnt from a corpus."""

    named = False

    @classmethod
    @abstractmethod
    def check(cls, spec: str) -> None:
        """RequestError for a name that is not of the form of this kind's."""

    @classmethod
    @abstractmethod
    def train(cls, spec: str, texts: Iterable[str]) -> Tokenizer:
        """Learn the vocabulary from `texts`, read once and not kept. Deterministic."""
