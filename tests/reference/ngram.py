"""Modified Kneser-Ney with dictionaries."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence


def kneser_ney(train: Sequence[int], vocab_size: int, order: int) -> Callable[[tuple[int, ...], int], float]:
    """Modified interpolated Kneser-Ney (Chen and Goodman 1999, equations 15-17) with dictionaries: p(context, token).

    The highest order uses raw counts, lower orders numbers of distinct left neighbours, and unigrams back off to 1/V.
    A count of counts of zero is replaced by one; discounts are clamped to [0.1, count].
    """
    train = [int(token) for token in train]
    raw = {k: Counter(tuple(train[i : i + k]) for i in range(len(train) - k + 1)) for k in range(1, order + 2)}
    counts: dict[int, dict[tuple[int, ...], int]] = {order: dict(raw[order])}
    for k in range(1, order):
        left = defaultdict(set)
        for gram in raw[k + 1]:
            left[gram[1:]].add(gram[0])
        counts[k] = {gram: len(left[gram]) for gram in raw[k]}

    discounts = {}
    for k in range(1, order + 1):
        n = {c: max(1, sum(value == c for value in counts[k].values())) for c in (1, 2, 3, 4)}
        Y = n[1] / (n[1] + 2 * n[2])
        plain = {c: c - (c + 1) * Y * n[c + 1] / n[c] for c in (1, 2, 3)}
        discounts[k] = {0: 0.0} | {c: min(max(d, 0.1), float(c)) for c, d in plain.items()}

    def p(context: tuple[int, ...], token: int) -> float:
        k = len(context) + 1
        lower = p(context[1:], token) if context else 1.0 / vocab_size
        after = {gram: c for gram, c in counts[k].items() if gram[:-1] == context}
        total = sum(after.values())
        if total == 0:
            return lower
        count = counts[k].get((*context, token), 0)
        freed = sum(discounts[k][min(c, 3)] for c in after.values())
        return (count - discounts[k][min(count, 3)]) / total + freed / total * lower

    return p
