"""Characters and bytes of the text of token ids: the denominators of bits per character and per byte."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sedd_cli.data.shards import TokenArray
from sedd_cli.data.tokenizers import Tokenizer

#: Tokens decoded at once, so that memory does not grow with a document.
PIECE = 1 << 18
#: Tokens decoded before a piece: more than a character spans, and than a decoder's rules look back.
CONTEXT = 16


@dataclass(frozen=True)
class TextSize:
    """Characters, and bytes in UTF-8, of a text without the separators between its documents."""

    characters: int = 0
    bytes: int = 0

    def __add__(self, other: TextSize) -> TextSize:
        return TextSize(self.characters + other.characters, self.bytes + other.bytes)

    def share(self, part: TextSize, whole: TextSize) -> TextSize:
        """What is to this size as `part` is to `whole`."""
        characters = round(self.characters * part.characters / max(whole.characters, 1))
        return TextSize(characters, round(self.bytes * part.bytes / max(whole.bytes, 1)))

    def __sub__(self, other: TextSize) -> TextSize:
        return TextSize(self.characters - other.characters, self.bytes - other.bytes)


def scored_size(split: TokenArray, tokenizer: Tokenizer, spans: np.ndarray) -> TextSize:
    """The size of the text in disjoint, ascending spans [M, 2] of a split's ids.

    The size of the whole split is counted in its original text at preparation. A part is decoded; if it is more than
    half of the split and holds no unknown tokens, the rest is decoded and subtracted, which gives the same. If the
    tokenizer does not restore its text (BERT: "don ' t"), the size of the original is divided as the decoded text is.
    """
    runs, whole = _joined(spans), TextSize(split.characters, split.info.bytes)
    inside = int((runs[:, 1] - runs[:, 0]).sum())
    if inside == split.tokens:
        return whole
    ends = split.document_ends()
    if not tokenizer.restores_text:
        part, all_of_it = (_decoded_size(split, tokenizer, at, ends) for at in (runs, np.array([[0, split.tokens]])))
        return whole.share(part, all_of_it)
    if 2 * inside <= split.tokens or split.info.unknown:
        return _decoded_size(split, tokenizer, runs, ends)
    edges = np.concatenate([[0], runs.reshape(-1), [split.tokens]]).reshape(-1, 2)
    outside = edges[edges[:, 1] > edges[:, 0]]
    return whole - _decoded_size(split, tokenizer, outside, ends)


def decoded_characters(split: TokenArray, tokenizer: Tokenizer, spans: np.ndarray) -> np.ndarray:
    """Characters of the decoded text in each of the spans [M, 2], [M]."""
    ends = split.document_ends()
    return np.array([_decoded_size(split, tokenizer, span[None], ends).characters for span in spans])


def _joined(spans: np.ndarray) -> np.ndarray:
    """The spans, with adjacent ones joined."""
    first = np.concatenate([[True], spans[1:, 0] != spans[:-1, 1]])
    last = np.concatenate([first[1:], [True]])
    return np.stack([spans[first, 0], spans[last, 1]], 1)


def _decoded_size(split: TokenArray, tokenizer: Tokenizer, runs: np.ndarray, ends: np.ndarray) -> TextSize:
    total = TextSize()
    for start, stop in runs.tolist():
        while start < stop:
            number = int(np.searchsorted(ends, start, side="right"))
            begins = int(ends[number - 1]) if number else 0
            piece = min(stop, int(ends[number]), start + PIECE)
            total += _piece_size(split, tokenizer, begins, start, piece)
            start = piece
    return total


def _piece_size(split: TokenArray, tokenizer: Tokenizer, document: int, start: int, stop: int) -> TextSize:
    """The size that ids start to stop add to the earlier ones of their document, which begins at `document`.

    A character of several tokens counts at its first token, so that sizes of adjacent pieces add up. One that is cut at
    `stop` counts the three bytes of U+FFFD until its other tokens follow.
    """
    before = max(document, start - CONTEXT)
    ids = split.read(before, stop)
    return _size_of(tokenizer, ids) - _size_of(tokenizer, ids[: start - before])


def _size_of(tokenizer: Tokenizer, ids: np.ndarray) -> TextSize:
    text = tokenizer.decode_run(ids if tokenizer.eos is None else ids[ids != tokenizer.eos])
    return TextSize(len(text), len(text.encode("utf-8", "surrogatepass")))
