"""Byte-level BPE learnt from a corpus, run by the `tokenizers` library."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from typing import Any

import numpy as np

from sedd_cli.data.tokenizers.base import TrainedTokenizer
from sedd_cli.data.tokenizers.huggingface import engine_ids
from sedd_cli.errors import RequestError, shortened
from sedd_cli.system.signals import uninterrupted

#: Longer runs of letters, of digits, of white space or of other signs are cut for training, whose time grows with the
#: square of a run.
LONGEST_RUN = 10_000
_RUN = re.compile("|".join(f"(?:{kind}){{{LONGEST_RUN}}}" for kind in (r"[^\W\d_]", r"\d", r"\s", r"[^\w\s]|_")))

#: Largest N of bpe:N.
MOST_PIECES = 1 << 20


def _without_long_runs(texts: Iterable[str]) -> Iterator[str]:
    """The texts, cut behind every LONGEST_RUN characters that pre-tokenisation would not cut."""
    for text in texts:
        start = 0
        for run in _RUN.finditer(text) if len(text) >= LONGEST_RUN else ():
            yield text[start : run.end()]
            start = run.end()
        if start < len(text):
            yield text[start:]


class BPETokenizer(TrainedTokenizer):
    """Byte-level BPE of N pieces, split as GPT-2 splits. The last id is eos ("<|endoftext|>").

    Every text can be expressed: the 256 bytes are always among the pieces. A training text too small for N
    pieces gives fewer.
    """

    kind = "bpe"
    eos_piece = "<|endoftext|>"
    smallest = 257

    def __init__(self, spec: str, pieces: list[str], merges: list[tuple[str, str]]):
        super().__init__(spec, vocab_size=len(pieces) + 1, eos=len(pieces))
        self.pieces = pieces
        self.merges = merges

    @cached_property
    def _model(self) -> Any:
        from tokenizers import Tokenizer as Engine
        from tokenizers import decoders, models, pre_tokenizers

        vocab = {piece: i for i, piece in enumerate(self.pieces)}
        engine = Engine(models.BPE(vocab=vocab, merges=self.merges))
        engine.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        engine.decoder = decoders.ByteLevel()
        return engine

    @classmethod
    def train(cls, spec: str, texts: Iterable[str]) -> BPETokenizer:
        from tokenizers import Tokenizer as Engine
        from tokenizers import models, pre_tokenizers, trainers

        size = cls._size(spec)
        engine = Engine(models.BPE())
        engine.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        # eos takes the last of the N places; it stays out of the engine, so that no text can spell it.
        trainer = trainers.BpeTrainer(
            vocab_size=size - 1, initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()), show_progress=False
        )
        uninterrupted(lambda: engine.train_from_iterator(_without_long_runs(texts), trainer))
        model = json.loads(engine.to_str())["model"]
        pieces = sorted(model["vocab"], key=model["vocab"].__getitem__)
        return cls(spec, pieces, [tuple(pair) for pair in model["merges"]])

    @classmethod
    def check(cls, spec: str) -> None:
        cls._size(spec)

    @classmethod
    def _size(cls, spec: str) -> int:
        number = spec.partition(":")[2]
        if not (number.isascii() and number.isdecimal()) or not cls.smallest <= int(number[:10]) <= MOST_PIECES:
            raise RequestError(
                f"tokenizer {shortened(spec)}: write bpe:N with N from {cls.smallest} (256 bytes and the separator) to "
                f"{MOST_PIECES:,} (the limit MOST_PIECES), as in bpe:4096"
            )
        return int(number)

    def encode_arrays(self, texts: Sequence[str]) -> list[np.ndarray]:
        return engine_ids(self._model, texts)

    def decode_run(self, ids: np.ndarray) -> str:
        return self._model.decode(ids.tolist(), skip_special_tokens=False)

    def state(self) -> dict[str, Any]:
        return {"pieces": self.pieces, "merges": [list(pair) for pair in self.merges]}

    @classmethod
    def from_state(cls, spec: str, state: dict[str, Any]) -> BPETokenizer:
        found = cls(spec, state["pieces"], [tuple(pair) for pair in state["merges"]])
        _ = found._model  # what the library refuses is an error here, not when a text is encoded
        return found
