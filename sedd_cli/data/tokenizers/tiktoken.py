"""The encodings of tiktoken, among them GPT-2's, which is encoded faster than by the library itself."""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import numpy as np

from sedd_cli.data.tokenizers.base import Tokenizer
from sedd_cli.errors import RequestError, WorkError, disk_full

#: Encodings that split as GPT-2 does.
GPT2_SPLIT = frozenset({"gpt2", "r50k_base", "p50k_base", "p50k_edit"})

#: What an id without a piece decodes as: U+FFFD.
_HOLE = "\ufffd".encode()
_CUT, _END = b"\x1f", b"\x1e"
_PATTERN = r"[\x1e\x1f]|'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}\x1e\x1f]+|\s+"
_ASCII_SPACE = np.isin(np.arange(256), np.frombuffer(b"\t\n\v\f\r ", dtype=np.uint8))
# White space beyond ASCII: NEL and NBSP, U+1680, the typographic ones, U+3000; three bytes, or two and a zero.
_OTHER_SPACE = np.array(
    [
        int.from_bytes(chr(point).encode("utf-8").ljust(3, b"\0"), "big")
        for point in (0x85, 0xA0, 0x1680, *range(0x2000, 0x200B), 0x2028, 0x2029, 0x202F, 0x205F, 0x3000)
    ]
)


class TiktokenTokenizer(Tokenizer):
    """Byte-level BPE by rank: "gpt2" (50,257 ids, eos 50,256), "cl100k_base", …; every text can be expressed."""

    kind = "tiktoken"

    def __init__(self, spec: str, encoding: Any):
        super().__init__(spec, vocab_size=encoding.n_vocab, eos=encoding.eot_token)
        self._encoding = encoding

    @classmethod
    def load(cls, spec: str) -> TiktokenTokenizer:
        """The encoding called `spec`; RequestError where its files are neither cached nor reachable."""
        import tiktoken

        try:
            return cls(spec, tiktoken.get_encoding(spec))
        except Exception as error:  # whatever the download raised; the remedy is the same
            if disk_full(error):
                raise WorkError(
                    f"no space left for the tokenizer {spec}: set TIKTOKEN_CACHE_DIR to a folder on a larger disk"
                ) from error
            raise RequestError(
                f"tokenizer {spec!r} could not be loaded: its files are not in tiktoken's cache, and "
                f"https://openaipublic.blob.core.windows.net is out of reach ({type(error).__name__}); point "
                "TIKTOKEN_CACHE_DIR to a folder that holds them, or use one that needs no network: char, bpe:N, byte, "
                "text8, a local tokenizer.json"
            ) from error

    @staticmethod
    def names() -> list[str]:
        """The encodings that tiktoken has."""
        import tiktoken

        return tiktoken.list_encoding_names()

    def encode_arrays(self, texts: Sequence[str]) -> list[np.ndarray]:
        return self._encode(texts)

    @cached_property
    def _encode(self) -> Callable[[Sequence[str]], list[np.ndarray]]:
        if self._encoding.name in GPT2_SPLIT:
            return GPT2Encoder(self._encoding)
        encode = self._encoding.encode_to_numpy
        return lambda texts: [encode(text, disallowed_special=()) for text in texts]

    def decode_run(self, ids: np.ndarray) -> str:
        try:
            return self._encoding.decode(ids.tolist())
        except KeyError:  # ids without a piece, which a young model draws
            known = self._with_pieces
            pieces = (self._encoding.decode_single_token_bytes(i) if i in known else _HOLE for i in ids.tolist())
            return b"".join(pieces).decode("utf-8", "replace")

    @cached_property
    def _with_pieces(self) -> frozenset[int]:
        """The ids that have a piece; n_vocab counts others too."""
        return frozenset({*self._encoding._mergeable_ranks.values(), *self._encoding._special_tokens.values()})

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


class GPT2Encoder:
    r"""The ids of `encoding.encode_ordinary`, for encodings that split as GPT-2 does, at 1.5 times the speed.

    GPT-2 splits a text by a regular expression whose only look-ahead, `\s+(?!\S)`, keeps the last character of a run
    of white space for the word that follows. Look-ahead rules out the linear-time engine. Here control characters are
    inserted beforehand: one at exactly those places, so that an expression without look-ahead splits the same, and
    one between texts, so that thousands of them go through the library in a single call, outside Python's lock. Their
    ids are removed afterwards.
    """

    def __init__(self, encoding: Any):
        import tiktoken

        self._plain = encoding
        self._cut_id = encoding.max_token_value + 1
        self._end_id = encoding.max_token_value + 2
        self._fast = tiktoken.Encoding(
            f"{encoding.name}-fast",
            pat_str=_PATTERN,
            mergeable_ranks={**encoding._mergeable_ranks, _CUT: self._cut_id, _END: self._end_id},
            special_tokens=encoding._special_tokens,
        )

    def __call__(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Ids of each text, uint32 [tokens]; special tokens are ordinary text."""
        raws = [text.encode("utf-8") for text in texts]
        plain = {i for i, raw in enumerate(raws) if _CUT in raw or _END in raw}
        joined = np.frombuffer(_END.join(b"" if i in plain else raw for i, raw in enumerate(raws)), dtype=np.uint8)
        found = self._encode(joined)
        for i in plain | _texts_with_other_space(joined):
            found[i] = self._plain.encode_to_numpy(texts[i], disallowed_special=())
        return found[: len(texts)]

    def _encode(self, joined: np.ndarray) -> list[np.ndarray]:
        """Ids of each text of `joined` [bytes]."""
        ids = self._fast.encode_to_numpy(_with_cuts(joined).tobytes().decode("utf-8"), disallowed_special=())
        ids = ids[ids != self._cut_id]
        ends = np.flatnonzero(ids == self._end_id)
        return [ids[i:j] for i, j in zip([0, *(ends + 1)], [*ends, ids.size], strict=True)]


def _with_cuts(joined: np.ndarray) -> np.ndarray:
    """`joined` with a cut in front of the last character of each longer run of white space that a word follows."""
    space = _ASCII_SPACE[joined]
    word = ~space & (joined != _END[0])
    cuts = np.flatnonzero(space[:-2] & space[1:-1] & word[2:]) + 1
    return np.insert(joined, cuts, _CUT[0])


def _texts_with_other_space(joined: np.ndarray) -> set[int]:
    """Indices of the texts of `joined` with white space beyond ASCII: rare, and encoded by the plain expression."""
    leads = np.flatnonzero(joined >= 0xC2)
    leads = leads[joined[leads] <= 0xE3]
    padded = np.append(joined, np.zeros(2, dtype=np.uint8))
    first, second, third = (padded[leads + i].astype(np.int64) for i in range(3))
    third[first < 0xE0] = 0  # a character of two bytes; the third byte belongs to the next character
    other = leads[np.isin(first << 16 | second << 8 | third, _OTHER_SPACE)]
    ends = np.flatnonzero(joined == _END[0])
    return set(np.searchsorted(ends, other).tolist())
