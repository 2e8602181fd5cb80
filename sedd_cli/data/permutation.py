"""Keyed pseudo-random numbers that need no state: a hash of 64-bit words and a permutation of range(n)."""

from __future__ import annotations

import numpy as np

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX_A = np.uint64(0xBF58476D1CE4E5B9)
_MIX_B = np.uint64(0x94D049BB133111EB)
_ROUNDS = 6


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
