"""Batches of token ids, each a pure function of (seed, step, row): nothing to save, nothing to restore."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from sedd_cli.data.shards import TokenArray
from sedd_cli.errors import RequestError

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX_A = np.uint64(0xBF58476D1CE4E5B9)
_MIX_B = np.uint64(0x94D049BB133111EB)
_ROUNDS = 6


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


def prefetch(
    loader: Loader, step: int, start: int = 0, stop: int | None = None, depth: int = 2, pin: bool | None = None
) -> Iterator:
    """Rows start to stop of the batches from `step` on, int64 tensors [stop - start, length] on the CPU, without end.

    A thread keeps `depth` batches ready, so that reading costs the training loop no time. pin: put them in
    page-locked memory, from which a GPU copies while it computes (None: where there is a GPU). An error of the
    loader is raised at the batch it belongs to. Closing the iterator ends the thread.
    """
    import torch

    pin = torch.cuda.is_available() if pin is None else pin

    def load(step: int):
        batch = torch.from_numpy(loader.batch(step, start, stop))
        return batch.pin_memory() if pin else batch

    with ThreadPoolExecutor(1, thread_name_prefix="batches") as thread:
        ready = [thread.submit(load, step + ahead) for ahead in range(depth)]
        try:
            while True:
                step += 1
                ready.append(thread.submit(load, step + depth - 1))
                yield ready.pop(0).result()
        finally:
            for future in ready:
                future.cancel()


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
    """Where a permutation of range(size) drawn by `key` sends each of `index` [n]; int64 [n], no table.

    A balanced Feistel network over the next power of four permutes [0, 4^k); whatever lands at or beyond
    `size` walks on along its cycle until it is back in range, at most four steps on average.
    """
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
