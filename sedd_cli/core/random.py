"""Randomness as a pure function: float64 uniforms from a counter, not from a hidden state.

Philox4x32-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"). Every number is
named by (seed, purpose, step, sequence, position), so the noise of sequence k at step n is the same on
one process and on eight, on the CPU and on a GPU, after a resume, and at any batch size.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

_MASK = 0xFFFFFFFF
_M0, _M1 = 0xD2511F53, 0xCD9E8D57
_W0, _W1 = 0x9E3779B9, 0xBB67AE85

#: Elements that `Stream.ahead` draws at once: what stays in a cache, or fills a GPU.
AHEAD = {"cpu": 2**15, "cuda": 2**20}

#: The purposes. A number drawn for one is independent of all numbers drawn for another.
TIME, NOISE, BASE, SAMPLER, BOUND = range(5)


def philox(
    counter: tuple[Tensor | int, Tensor | int, Tensor | int, Tensor | int], key: tuple[Tensor | int, Tensor | int]
) -> list[Tensor]:
    """Four words of 32 random bits (as int64) for every element of the broadcast counter."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(10):
        # int64 products wrap around, but their 64 bits are right; the mask makes the shift a logical one
        p0, p1 = c0 * _M0, c2 * _M1
        c0, c1, c2, c3 = ((p1 >> 32) & _MASK) ^ c1 ^ k0, p1 & _MASK, ((p0 >> 32) & _MASK) ^ c3 ^ k1, p0 & _MASK
        k0, k1 = (k0 + _W0) & _MASK, (k1 + _W1) & _MASK
    return [torch.as_tensor(word) for word in (c0, c1, c2, c3)]


def _unit(high: Tensor, low: Tensor) -> Tensor:
    """52 random bits → float64 in (0, 1), both ends excluded (with 53 the largest would round to 1)."""
    return (((high << 20) | (low >> 12)).double() + 0.5) * 2.0**-52


@dataclass(frozen=True)
class Stream:
    """The numbers of some sequences for one purpose.

    `index` [B] int64 numbers the sequences globally (not within the batch), each below 2³². `seed` is one for all, or
    one for each, [B] int64 (the 64 bits count, not the sign).
    """

    seed: int | Tensor
    purpose: int
    index: Tensor

    def uniforms(self, step: int, length: int) -> tuple[Tensor, Tensor]:
        """Two independent float64 tensors [B, length] in (0, 1) for this step (0 ≤ step < 2³²)."""
        first, second = self.many(range(step, step + 1), length)
        return first[0], second[0]

    def many(self, steps: range, length: int) -> tuple[Tensor, Tensor]:
        """`uniforms` of several steps at once: [len(steps), B, length] each."""
        device = self.index.device
        position = torch.arange(length, device=device)
        step = torch.arange(steps.start, steps.stop, steps.step, device=device)[:, None, None]
        seed = self.seed[:, None] if isinstance(self.seed, Tensor) else self.seed
        # seed 0 and step 0 are ordinary values; the purpose goes to the counter's last word
        words = philox((position, step, self.index[:, None], self.purpose), (seed & _MASK, (seed >> 32) & _MASK))
        return _unit(words[0], words[1]), _unit(words[2], words[3])

    def ahead(self, length: int, last: int) -> Iterator[tuple[Tensor, Tensor]]:
        """`uniforms` of steps 0, 1, … last − 1, drawn several at a time: a draw of few numbers costs its 130 launches.

        A user who keeps a draw keeps those that were drawn with it.
        """
        elements = AHEAD.get(self.index.device.type, AHEAD["cpu"])
        several = max(1, elements // max(1, len(self.index) * length))
        for start in range(0, last, several):
            yield from zip(*self.many(range(start, min(start + several, last)), length), strict=True)

    def uniform(self, step: int) -> Tensor:
        """One float64 number per sequence, [B]."""
        return self.uniforms(step, 1)[0][:, 0]
