"""The encodings of tiktoken, GPT-2's among them."""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import numpy as np

from sedd_cli.data.tokenizers import swift
from sedd_cli.data.tokenizers.base import Tokenizer
from sedd_cli.errors import RequestError


class TiktokenTokenizer(Tokenizer):
    """Byte-level BPE by rank: "gpt2" (50,257 ids, eos 50,256), "cl100k_base", …; every text can be expressed."""

    kind = "tiktoken"

    def __init__(self, spec: str, encoding):
        super().__init__(spec, vocab_size=encoding.n_vocab, eos=encoding.eot_token)
        self._encoding = encoding

    @classmethod
    def load(cls, spec: str) -> TiktokenTokenizer:
        """The encoding called `spec`; raises RequestError where its files are neither cached nor in reach."""
        import tiktoken

        try:
            return cls(spec, tiktoken.get_encoding(spec))
        except Exception as error:  # whatever the download raised; the remedy is the same
            raise RequestError(
                f"tokenizer {spec!r} could not be loaded: its files are not in tiktoken's cache, and "
                f"https://openaipublic.blob.core.windows.net is out of reach ({type(error).__name__}); point "
                "TIKTOKEN_CACHE_DIR to a folder that holds them, or use one that needs no network: char, bpe:N, byte, "
                "text8, a local tokenizer.json"
            ) from error

    @staticmethod
    def names() -> list[str]:
        """The encodings that tiktoken knows."""
        import tiktoken

        return tiktoken.list_encoding_names()

    def encode_arrays(self, texts: Sequence[str]) -> list[np.ndarray]:
        return self._encode(texts)

    @cached_property
    def _encode(self) -> Callable[[Sequence[str]], list[np.ndarray]]:
        if self._encoding.name in swift.NAMES:
            return swift.SwiftEncoder(self._encoding)
        encode = self._encoding.encode_to_numpy
        return lambda texts: [encode(text, disallowed_special=()) for text in texts]

    def decode_run(self, ids: np.ndarray) -> str:
        try:
            return self._encoding.decode(ids.tolist())
        except KeyError as error:
            raise RequestError(f"a token id is not among those of {self.spec}: {error.args[0]}") from error

    def state(self) -> dict[str, Any]:
        return {
            "name": self._encoding.name,
            "pattern": self._encoding._pat_str,
            "ranks": self._ranks,
            "special": self._encoding._special_tokens,
            "vocab_size": self.vocab_size,
        }

    @cached_property
    def _ranks(self) -> list[str]:
        """Base64 of the pieces in the order of their ranks; a rank without a piece is ""."""
        of_piece = self._encoding._mergeable_ranks
        ranks = [""] * (max(of_piece.values()) + 1)
        for piece, rank in of_piece.items():
            ranks[rank] = base64.b64encode(piece).decode("ascii")
        return ranks

    def identity(self) -> dict[str, Any]:
        # The name stands for the pattern, which tiktoken rewrites between versions without a change of meaning.
        return {key: value for key, value in self.state().items() if key != "pattern"}

    @classmethod
    def from_state(cls, spec: str, state: dict[str, Any]) -> TiktokenTokenizer:
        import tiktoken

        ranks = {base64.b64decode(piece): rank for rank, piece in enumerate(state["ranks"]) if piece}
        encoding = tiktoken.Encoding(
            state["name"], pat_str=state["pattern"], mergeable_ranks=ranks, special_tokens=state["special"]
        )
        return cls(spec, encoding)
