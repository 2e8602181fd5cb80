"""The blocks that a protocol cuts a text into."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from sedd_cli.data.shards import TokenArray, token_counts
from sedd_cli.data.text_size import TextSize, decoded_characters, scored_size
from sedd_cli.data.tokenizers import Tokenizer
from sedd_cli.errors import RequestError
from sedd_cli.inference.bound import find_protocol

#: Tokens from which token frequencies are estimated; they only serve as a control variate (see `Blocks.surprisal`).
COUNTED_TOKENS = 4_000_000


@dataclass(frozen=True)
class Blocks:
    """A split cut into consecutive spans [M, 2] of its tokens, whatever documents they belong to.

    The cut does not depend on processes or batches. marks: the ids around every block, if the protocol has them.
    tokenizer: the one that made the ids.
    """

    split: TokenArray
    spans: np.ndarray
    marks: tuple[int, int] | None = None
    tokenizer: Tokenizer | None = None

    @classmethod
    def cut(
        cls, split: TokenArray, name: str, length: int, tokenizer: Tokenizer | None, limit: int | None = None
    ) -> Blocks:
        """The first `limit` (None: all) blocks of `length` tokens under a protocol; RequestError if there is none."""
        protocol, marks = find_protocol(name), None
        if protocol.wrapped:
            if tokenizer is None or tokenizer.bos is None or tokenizer.eos is None:
                raise RequestError(f"protocol {name!r} puts marks around blocks, and this tokenizer has none")
            marks = (tokenizer.bos, tokenizer.eos)
        inside = length - 2 * protocol.wrapped
        if inside < 1:
            raise RequestError(f"protocol {name!r} leaves no room for text in blocks of {length} tokens")
        starts = np.arange(0, split.tokens, inside)
        spans = np.stack([starts, np.minimum(starts + inside, split.tokens)], 1)
        if not protocol.rest:
            spans = spans[spans[:, 1] - spans[:, 0] == inside]
        if not len(spans):
            raise RequestError(
                f"the {split.name} split has {split.tokens} tokens, fewer than one block of {inside}: "
                f"protocol {name!r} has nothing to evaluate; choose a longer split, or shorter blocks with --length"
            )
        return cls(split, spans[:limit], marks, tokenizer)

    def __len__(self) -> int:
        return len(self.spans)

    @cached_property
    def lengths(self) -> np.ndarray:
        """Tokens of each block, marks included, [M]."""
        return self.spans[:, 1] - self.spans[:, 0] + (2 if self.marks else 0)

    @property
    def tokens(self) -> int:
        """Tokens of all blocks, marks included."""
        return int(self.lengths.sum())

    @cached_property
    def size(self) -> TextSize:
        """Characters and bytes of the evaluated text; marks and separators count for none."""
        if self.tokenizer is None:
            raise ValueError("characters are counted by decoding, and these blocks have no tokenizer")
        found = scored_size(self.split, self.tokenizer, self.spans)
        if found.characters < 1:
            raise RequestError(f"the scored blocks of the {self.split.name} split hold no characters: score more of it")
        return found

    @cached_property
    def characters(self) -> np.ndarray:
        """Characters of each block, decoded, [M]."""
        assert self.tokenizer is not None  # `size` has raised
        return decoded_characters(self.split, self.tokenizer, self.spans)

    def read(self, group: Tensor) -> Tensor:
        """The ids of the blocks numbered `group` [n], all of equal length, int64 [n, L]."""
        spans = self.spans[group.numpy()]
        x = torch.from_numpy(self.split.rows(spans[:, 0], int(spans[0, 1] - spans[0, 0])))
        if self.marks:
            first, last = (torch.full((len(x), 1), mark) for mark in self.marks)
            x = torch.cat([first, x, last], 1)
        return x

    def counted(self, group: Tensor) -> Tensor | None:
        """Which positions of the blocks numbered `group` are no padding, [n, L]; None: all."""
        return None

    def shares(self, group: Tensor) -> Tensor:
        """By what the nats of the blocks numbered `group` [n] count in the mean over tokens, [n] float64."""
        return torch.ones(len(group), dtype=torch.float64)

    def groups(self, tokens: int) -> list[Tensor]:
        """The blocks' numbers in groups of equal length, of about `tokens` tokens each."""
        numbers, size = torch.arange(len(self)), max(1, tokens // int(self.lengths[0]))
        full = int((self.lengths == self.lengths[0]).sum())  # only the last block can be shorter
        return [*numbers[:full].split(size), *(numbers[full:].split(1) if full < len(self) else ())]

    @cached_property
    def clusters(self) -> np.ndarray:
        """The cluster of each block [M]: the document in which it begins.

        In a text of a single document, such as text8, every block is a cluster. text8 is stored in pieces of equal
        length without separators.
        """
        ends = self.split.document_ends()
        pieces = np.diff(ends, prepend=0)
        unseparated = self.tokenizer is not None and self.tokenizer.eos is None
        single = unseparated and bool((pieces[:-1] == pieces[0]).all() and pieces[-1] <= pieces[0])
        found = np.searchsorted(ends, self.spans[:, 0], side="right")
        return found if found[-1] > found[0] and not single else np.arange(len(found))

    def surprisal(self, vocab_size: int) -> Tensor:
        """−log of each token's frequency in the first COUNTED_TOKENS of this text, [vocab_size] float64."""
        counts = 0.5 + token_counts(self.split, vocab_size, min(int(self.spans[-1, 1]), COUNTED_TOKENS))
        return torch.from_numpy(-np.log(counts / counts.sum()))
