"""Tokenizers whose ids are single symbols: characters, bytes, the 27 letters of text8."""

from __future__ import annotations

import string
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from sedd_cli.data.tokenizers.base import Tokenizer, TrainedTokenizer
from sedd_cli.errors import RequestError, shortened


def code_points(text: str) -> np.ndarray:
    """Unicode code points of `text` [characters], uint32."""
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype="<u4")


def from_code_points(points: np.ndarray) -> str:
    """The text whose code points are `points`."""
    return points.astype("<u4").tobytes().decode("utf-32-le", "replace")


class CharTokenizer(TrainedTokenizer):
    """The characters of the training text, in code point order. Id 0 is eos, id 1 every unseen character.

    An unseen character decodes as U+FFFD.
    """

    kind = "char"
    order = "code points"
    _reserved, _unseen = 2, 1

    def __init__(self, spec: str, alphabet: str):
        super().__init__(spec, vocab_size=len(alphabet) + self._reserved, eos=0, unknown=self._unseen)
        self.alphabet = alphabet
        self._points = code_points(alphabet)
        self._decoded = np.concatenate([code_points("\ufffd\ufffd"), self._points])

    @classmethod
    def check(cls, spec: str) -> None:
        if spec != cls.kind:
            raise RequestError(f"tokenizer {shortened(spec)!r}: char takes no number; write char")

    @classmethod
    def train(cls, spec: str, texts: Iterable[str]) -> CharTokenizer:
        cls.check(spec)
        seen: set[str] = set()
        for text in texts:
            seen.update(text)
        return cls(spec, "".join(sorted(seen)))

    def encode_arrays(self, texts: Sequence[str]) -> list[np.ndarray]:
        return [self._ids(code_points(text)) for text in texts]

    def _ids(self, points: np.ndarray) -> np.ndarray:
        if not self._points.size:
            return np.full(points.size, self._unseen, dtype=np.uint32)
        place = np.minimum(np.searchsorted(self._points, points), self._points.size - 1)
        return np.where(self._points[place] == points, place + self._reserved, self._unseen).astype(np.uint32)

    def decode_run(self, ids: np.ndarray) -> str:
        return from_code_points(self._decoded[ids])

    def state(self) -> dict[str, Any]:
        return {"alphabet": self.alphabet}

    @classmethod
    def from_state(cls, spec: str, state: dict[str, Any]) -> CharTokenizer:
        return cls(spec, state["alphabet"])


class ByteTokenizer(Tokenizer):
    """The 256 bytes of UTF-8, then eos (256). Bytes that are no UTF-8 decode as U+FFFD."""

    kind = "byte"
    order = "values"

    def __init__(self, spec: str = "byte"):
        super().__init__(spec, vocab_size=257, eos=256)

    def encode_arrays(self, texts: Sequence[str]) -> list[np.ndarray]:
        return [np.frombuffer(text.encode("utf-8"), dtype=np.uint8) for text in texts]

    def decode_run(self, ids: np.ndarray) -> str:
        return ids.astype(np.uint8).tobytes().decode("utf-8", "replace")

    def state(self) -> dict[str, Any]:
        return {}

    @classmethod
    def from_state(cls, spec: str, state: dict[str, Any]) -> ByteTokenizer:
        return cls(spec)


class Text8Tokenizer(Tokenizer):
    """The 27 symbols of text8: the space is 0, a to z are 1 to 26. There is no eos and no unknown.

    Any other character is refused, since the benchmark's text is clean and a silent replacement would
    change its bits per character.
    """

    kind = "text8"
    order = "the alphabet"
    alphabet = " " + string.ascii_lowercase

    def __init__(self, spec: str = "text8"):
        super().__init__(spec, vocab_size=len(self.alphabet), eos=None)
        self._id_of = np.full(128, 255, dtype=np.uint8)
        self._id_of[code_points(self.alphabet)] = np.arange(len(self.alphabet))

    def encode_arrays(self, texts: Sequence[str]) -> list[np.ndarray]:
        return [self._ids(text) for text in texts]

    def _ids(self, text: str) -> np.ndarray:
        points = code_points(text)
        ids = np.where(points < 128, self._id_of[np.minimum(points, 127)], 255).astype(np.uint8)
        wrong = np.flatnonzero(ids == 255)
        if wrong.size:
            raise RequestError(
                f"text8 has no symbol for {text[wrong[0]]!r} (character {wrong[0]} of the text): "
                "it has a to z and the space"
            )
        return ids

    def decode_run(self, ids: np.ndarray) -> str:
        return from_code_points(code_points(self.alphabet)[ids])

    def state(self) -> dict[str, Any]:
        return {}

    @classmethod
    def from_state(cls, spec: str, state: dict[str, Any]) -> Text8Tokenizer:
        return cls(spec)
