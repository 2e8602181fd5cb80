"""Batches of token ids, each a pure function of (seed, step, row): nothing to save, nothing to restore."""

from __future__ import annotations

import numpy as np

from sedd_cli.data.permutation import key_of, mix, permute
from sedd_cli.data.shards import TokenArray
from sedd_cli.errors import RequestError


class Loader:
    """Rows of `length` ids from one split, in batches of `batch` rows.

    Row r of step n is sample n·batch + r, however many processes share the batch. Packed (the default): the
    split is cut into blocks of `length`, the tail shorter than a block is dropped, and every epoch visits
    each block once, in an order of its own. With `windows`, each sample starts anywhere, uniformly.
    """

    def __init__(self, split: TokenArray, length: int, batch: int, seed: int, windows: bool = False):
        if length < 1 or batch < 1:
            raise RequestError(f"length and batch must be at least 1, not {length} and {batch}")
        if split.tokens < length:
            raise RequestError(
                f"length {length} is longer than the {split.name} split, which has {split.tokens:,} tokens: "
                "choose a shorter length or a larger corpus"
            )
        self.split = split
        self.length = length
        self.size = batch
        self.seed = seed
        self.windows = windows
        self.blocks = split.tokens // length

    def batch(self, step: int, start: int = 0, stop: int | None = None) -> np.ndarray:
        """Rows start to stop (default: all) of the global batch of `step`, int64 [stop - start, length]."""
        stop = self.size if stop is None else stop
        if not 0 <= start <= stop <= self.size:
            raise IndexError(f"rows {start} to {stop} of a batch of {self.size}")
        return self.split.rows(self.starts(np.arange(step * self.size + start, step * self.size + stop)), self.length)

    def starts(self, samples: np.ndarray) -> np.ndarray:
        """Position in the split at which each of the global `samples` [n] begins; int64 [n]."""
        if self.windows:
            words = mix(key_of(self.seed, -1) ^ mix(samples.astype(np.uint64)))
            # The modulo's bias is the number of places over 2^64: below 1e-9 for any corpus.
            return (words % np.uint64(self.split.tokens - self.length + 1)).astype(np.int64)
        epochs, index = np.divmod(samples, self.blocks)
        blocks = np.empty_like(index)
        for epoch in np.unique(epochs):
            here = epochs == epoch
            blocks[here] = permute(index[here], self.blocks, key_of(self.seed, int(epoch)))
        return blocks * self.length
