"""Diversity of samples: entropy within a sequence, repeated n-grams, similarity between sequences.

Repetitive samples can have a low generative perplexity; these measures reveal them. Sequences are token ids of any
lengths; empty ones are skipped.
"""

from __future__ import annotations

import math
from bisect import bisect
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Diversity:
    """Diversity of texts as token ids: unigram entropy in nats with its standard error, distinct-n by n, self-BLEU.

    None where a measure is undefined, or was not computed.
    """

    entropy: float | None
    entropy_error: float | None
    distinct: dict[str, float | None]
    self_bleu: float | None

    @classmethod
    def of(cls, rows: Sequence[Sequence[int]], with_self_bleu: bool = True) -> Diversity:
        """All measures of sequences of token ids."""
        shares = {str(n): distinct(rows, n) for n in (1, 2, 3)}
        return cls(*unigram_entropy(rows), shares, self_bleu(rows) if with_self_bleu else None)


def unigram_entropy(rows: Sequence[Sequence[int]]) -> tuple[float | None, float | None]:
    """Mean entropy in nats of a sequence's own token frequencies, and its standard error over sequences.

    The error is None for a single sequence; both are None without any token.
    """
    entropies = [_entropy(row) for row in _filled(rows)]
    if not entropies:
        return None, None
    mean = math.fsum(entropies) / len(entropies)
    if len(entropies) == 1:
        return mean, None
    variance = math.fsum((entropy - mean) ** 2 for entropy in entropies) / (len(entropies) - 1)
    return mean, math.sqrt(variance / len(entropies))


def distinct(rows: Sequence[Sequence[int]], n: int) -> float | None:
    """Distinct n-grams as a share of all n-grams of all sequences (distinct-n, Li et al. 2016, section 5).

    None without any n-gram. The share falls as the number of samples grows, so only sets of equal size are comparable.
    """
    grams: Counter[tuple[int, ...]] = Counter()
    for row in _filled(rows):
        grams.update(_grams(row, n))
    return len(grams) / grams.total() if grams else None


def self_bleu(rows: Sequence[Sequence[int]], order: int = 4) -> float | None:
    """Mean BLEU of each sequence with all others as its references (Zhu et al. 2018, section 2.2.2), 0 to 1.

    BLEU (Papineni et al. 2002) is the geometric mean of the clipped precisions of 1- to `order`-grams, times the
    brevity penalty against the reference closest in length (the shorter of two equally close). Smoothing is method 1
    of Chen and Cherry (2014): zero matches count as 0.1. Orders longer than the sequence are left out of its mean.
    None for fewer than two sequences. 1 means that all sequences are equal.

    The time is linear in the text: an n-gram is clipped by its largest count in another sequence, which follows from
    its two largest counts over all sequences.
    """
    rows = _filled(rows)
    if len(rows) < 2:
        return None
    log_precisions: list[list[float]] = [[] for _ in rows]
    for n in range(1, min(order, max(map(len, rows))) + 1):
        counts = [Counter(_grams(row, n)) for row in rows]
        largest = _two_largest(counts)
        for own, found in zip(log_precisions, counts, strict=True):
            if found:
                matches = sum(min(count, _elsewhere(largest[gram], count)) for gram, count in found.items())
                own.append(math.log(max(matches, 0.1) / found.total()))
    lengths = sorted(map(len, rows))
    bleus = [
        math.exp(_log_brevity(len(row), lengths) + math.fsum(own) / len(own))
        for row, own in zip(rows, log_precisions, strict=True)
    ]
    return math.fsum(bleus) / len(bleus)


def _filled(rows: Sequence[Sequence[int]]) -> list[list[int]]:
    return [list(map(int, row)) for row in rows if len(row)]


def _grams(row: list[int], n: int) -> zip:
    return zip(*(row[start:] for start in range(n)), strict=False)  # ends with the shortest shift


def _entropy(row: list[int]) -> float:
    return math.fsum(count / len(row) * math.log(len(row) / count) for count in Counter(row).values())


def _two_largest(counts: list[Counter[tuple[int, ...]]]) -> dict[tuple[int, ...], tuple[int, int]]:
    """For every n-gram, its largest and second largest count in a sequence, possibly equal."""
    largest: dict[tuple[int, ...], tuple[int, int]] = {}
    for found in counts:
        for gram, count in found.items():
            first, second = largest.get(gram, (0, 0))
            largest[gram] = (count, first) if count > first else (first, max(second, count))
    return largest


def _elsewhere(largest: tuple[int, int], count: int) -> int:
    """The largest count in any other sequence than one with `count`."""
    first, second = largest
    return second if count == first else first


def _log_brevity(length: int, lengths: list[int]) -> float:
    """min(0, 1 - r / length), where r is the closest of the sorted `lengths` after removing one `length`."""
    place = bisect(lengths, length) - 1  # the last equal one
    neighbours = lengths[max(place - 1, 0) : place] + lengths[place + 1 : place + 2]
    closest = min(neighbours, key=lambda other: (abs(other - length), other))
    return min(0.0, 1 - closest / length)
