"""Windows of documents, as GIDD's evaluation takes them: one of each document, padded to the model's length."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from sedd_cli.core.random import BASE, Stream
from sedd_cli.data.shards import TokenArray
from sedd_cli.data.tokenizers import Tokenizer
from sedd_cli.errors import RequestError
from sedd_cli.evaluation.likelihood.protocols import Blocks

#: Documents of a batch of GIDD's evaluation, which averages the means of batches.
BATCH = 32


@dataclass(frozen=True)
class Windows(Blocks):
    """A window of every document, at a random place if the document is longer.

    A document begins and ends with the tokenizer's special tokens, and short ones are padded. spans: the tokens that
    are read from the split; begins [M]: whether the window begins with the first special token, which it does not hold.
    """

    begins: np.ndarray | None = None
    length: int = 0
    padding: int = 0

    @classmethod
    def of_documents(
        cls,
        split: TokenArray,
        length: int,
        tokenizer: Tokenizer | None,
        padding: int | None,
        limit: int | None,
        seed: int,
    ) -> Windows:
        """A window of each of the first `limit` (None: all) documents.

        padding: the token that short ones are filled with; None: the one that ends a document.
        """
        if tokenizer is None or tokenizer.bos is None or tokenizer.eos is None:
            raise RequestError("protocol 'gidd' puts marks around documents, and this tokenizer has none")
        ends = split.document_ends()[:limit]
        starts = np.concatenate([[0], ends[:-1]])
        # the first mark is not stored, the last one is
        room = 1 + ends - starts - length
        u = Stream(seed, BASE, torch.arange(len(ends))).uniform(0).numpy()
        skipped = np.where(room > 0, np.floor(u * np.maximum(room, 1)), 0).astype(np.int64)
        begins = skipped == 0
        first = starts + np.maximum(skipped - 1, 0)
        spans = np.stack([first, np.minimum(ends, first + length - begins)], 1)
        padding = tokenizer.eos if padding is None else padding
        return cls(split, spans, (tokenizer.bos, tokenizer.eos), tokenizer, begins, length, padding)

    @cached_property
    def lengths(self) -> np.ndarray:
        """Tokens of each window without padding, [M]."""
        return self.spans[:, 1] - self.spans[:, 0] + self.begins

    def read(self, group: Tensor) -> Tensor:
        rows = []
        for number in group.tolist():
            ids = torch.from_numpy(self.split.read(*self.spans[number].tolist()))
            if self.begins is not None and self.begins[number] and self.marks:
                ids = F.pad(ids, (1, 0), value=self.marks[0])
            rows.append(F.pad(ids, (0, self.length - len(ids)), value=self.padding))
        return torch.stack(rows)

    def counted(self, group: Tensor) -> Tensor:
        return torch.arange(self.length) < torch.from_numpy(self.lengths[group.numpy()])[:, None]

    def groups(self, tokens: int) -> list[Tensor]:
        return list(torch.arange(len(self)).split(max(1, tokens // self.length)))

    def shares(self, group: Tensor) -> Tensor:
        """By what the nats of windows count in a mean over batches of BATCH, each a mean over tokens; 1 on average."""
        batch = np.arange(len(self)) // BATCH
        documents, tokens = np.bincount(batch), np.bincount(batch, weights=self.lengths)
        found = self.tokens / len(self) * (documents / tokens)[batch]
        return torch.from_numpy(found[group.numpy()])
