"""Batches of token ids. A row is a function of split, length, batch size, seed, step and row: no state is stored."""

from __future__ import annotations

from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np

from sedd_cli.data.shards import TokenArray
from sedd_cli.errors import RequestError

if TYPE_CHECKING:
    from torch import Tensor

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX_A = np.uint64(0xBF58476D1CE4E5B9)
_MIX_B = np.uint64(0x94D049BB133111EB)
_ROUNDS = 6


class Loader:
    """Rows of `length` ids from one split, in batches of `batch` rows.

    Row r of step n is sample n·batch + r, however many processes share the batch. By default samples are packed: the
    split is cut into blocks of `length`, a shorter tail is dropped, and every epoch visits each block once, in an order
    of its own. With `windows`, each sample starts at a uniformly random position.
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
        self.batch_size = batch
        self.seed = seed
        self.windows = windows
        self.blocks = split.tokens // length

    def batch(self, step: int, start: int = 0, stop: int | None = None) -> np.ndarray:
        """Rows start to stop (default: all) of the global batch of `step`, int64 [stop - start, length]."""
        stop = self.batch_size if stop is None else stop
        if not 0 <= start <= stop <= self.batch_size:
            raise IndexError(f"rows {start} to {stop} of a batch of {self.batch_size}")
        return self.split.rows(
            self.starts(np.arange(step * self.batch_size + start, step * self.batch_size + stop)), self.length
        )

    def starts(self, samples: np.ndarray) -> np.ndarray:
        """Position in the split of the first token of each of the global `samples` [n]; int64 [n]."""
        if self.windows:
            words = mix(key_of(self.seed, -1) ^ mix(samples.astype(np.uint64)))
            # the bias of the modulo is the number of positions over 2^64: below 1e-9 for any corpus
            return (words % np.uint64(self.split.tokens - self.length + 1)).astype(np.int64)
        epochs, index = np.divmod(samples, self.blocks)
        blocks = np.empty_like(index)
        for epoch in np.unique(epochs):
            here = epochs == epoch
            blocks[here] = permute(index[here], self.blocks, key_of(self.seed, int(epoch)))
        return blocks * self.length


#: Batches that are read ahead.
DEPTH = 2


def prefetch(
    loader: Loader, step: int, start: int = 0, stop: int | None = None, pin: bool = False
) -> Generator[Tensor, None, None]:
    """Rows start to stop of all batches from `step` on, int64 tensors [stop - start, length] on the CPU.

    A thread keeps DEPTH batches ready, so that the training loop does not wait for reads. pin: use page-locked memory,
    from which a GPU copies while it computes. An error of the loader is raised at its batch. Closing the iterator ends
    the thread.
    """
    import torch

    def load(step: int) -> Tensor:
        batch = torch.from_numpy(loader.batch(step, start, stop))
        return batch.pin_memory() if pin else batch

    with ThreadPoolExecutor(1, thread_name_prefix="batches") as thread:
        ready = [thread.submit(load, step + ahead) for ahead in range(DEPTH)]
        try:
            while True:
                step += 1
                ready.append(thread.submit(load, step + DEPTH - 1))
                yield ready.pop(0).result()
        finally:
            for future in ready:
                future.cancel()


#: Sizes up to which `permute` sorts.
FEW = 16


def mix(words: np.ndarray) -> np.ndarray:
    """A well-mixed uint64 for each uint64 of `words` (the finaliser of splitmix64)."""
    with np.errstate(over="ignore"):
        words = words + _GOLDEN
        words = (words ^ (words >> np.uint64(30))) * _MIX_A
        words = (words ^ (words >> np.uint64(27))) * _MIX_B
    return words ^ (words >> np.uint64(31))


def key_of(*parts: int) -> np.uint64:
    """One uint64 that depends on all of `parts` (any integers) and on their order."""
    key = np.zeros(1, dtype=np.uint64)
    for part in parts:
        key = mix(key ^ np.uint64(part % (1 << 64)))
    return key[0]


def permute(index: np.ndarray, size: int, key: np.uint64) -> np.ndarray:
    """Images of `index` [n] under a permutation of range(size) that `key` selects; int64 [n], without a table.

    A balanced Feistel network permutes [0, 4^k), the next power of four. Images outside range(size) are mapped again
    until they fall into it (cycle walking), at most four times on average. Up to FEW, where so small a network favours
    some pairs of images, the order is that of random words.
    """
    if size <= FEW:
        return mix(key ^ mix(np.arange(size, dtype=np.uint64))).argsort()[index]
    half = np.uint64(max(1, (max(size - 1, 1).bit_length() + 1) // 2))
    mask = np.uint64((1 << int(half)) - 1)
    keys = mix(key ^ mix(np.arange(_ROUNDS, dtype=np.uint64)))
    out = index.astype(np.uint64)
    pending = np.arange(out.size)
    while pending.size:
        left, right = out[pending] >> half, out[pending] & mask
        for round_key in keys:
            left, right = right, left ^ (mix(right ^ round_key) & mask)
        out[pending] = (left << half) | right
        pending = pending[out[pending] >= size]
    return out.astype(np.int64)
