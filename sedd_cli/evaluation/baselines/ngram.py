"""An n-gram model with interpolated modified Kneser-Ney smoothing (Chen and Goodman 1999, section 4.1.6).

Every order has three discounts, estimated from the counts of counts. n-grams are sorted integer keys, so that no loop
runs over tokens and a corpus of millions of tokens takes seconds.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class _Order:
    """Statistics of the k-grams: sorted keys (context id · V + token) with counts, and sums per context."""

    keys: np.ndarray  # [G] sorted
    counts: np.ndarray  # [G] raw counts at the highest order, numbers of distinct left neighbours below it
    discounts: np.ndarray  # [4]: subtracted from a count of 0, 1, 2, and 3 or more
    context_total: np.ndarray  # [C] sum of counts after each context
    context_backoff: np.ndarray  # [C] sum of discounts after each context


def _lookup(keys: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Index of each wanted key in the sorted keys, −1 where it is absent."""
    if not len(keys):
        return np.full(len(wanted), -1)
    at = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where(keys[at] == wanted, at, -1)


def _take(values: np.ndarray, index: np.ndarray) -> np.ndarray:
    """values[index], and 0 where the index is −1 (values is empty where the stream is shorter than the order)."""
    return np.append(values, 0)[index]


def _discounts(counts: np.ndarray) -> np.ndarray:
    n1, n2, n3, n4 = (max(int((counts == c).sum()), 1) for c in (1, 2, 3, 4))
    y = n1 / (n1 + 2 * n2)
    d = np.array([0.0, 1 - 2 * y * n2 / n1, 2 - 3 * y * n3 / n2, 3 - 4 * y * n4 / n3])
    # small corpora give extreme estimates; every discount must leave probability for unseen tokens
    return np.clip(d, [0.0, 0.1, 0.1, 0.1], [0.0, 1.0, 2.0, 3.0])


class NGram:
    """Estimated from a token stream [T].

    Where fewer than order−1 tokens precede, lower orders are used.
    """

    def __init__(self, tokens: np.ndarray, vocab_size: int, order: int = 5):
        self.vocab_size, self.order = vocab_size, order
        tokens = np.asarray(tokens, dtype=np.int64)
        raw, context = [], np.zeros(len(tokens), dtype=np.int64)  # id of the (k−1)-gram that ends before each token
        for k in range(1, order + 1):
            keys, gram, counts = np.unique(
                context[k - 1 :] * vocab_size + tokens[k - 1 :], return_inverse=True, return_counts=True
            )
            raw.append((keys, counts))
            context = np.full(len(tokens), -1, dtype=np.int64)
            context[k:] = gram[:-1]
        grams = [raw[0][0]] + [keys for keys, _ in raw[1:]]
        self._orders = []
        for k in range(order):
            keys, counts = raw[k]
            if k + 1 < order:
                counts = np.bincount(self._suffix(grams, k + 1), minlength=len(keys))
            discounts = _discounts(counts)
            owner = keys // vocab_size
            size = 1 if k == 0 else len(raw[k - 1][0])
            total = np.bincount(owner, weights=counts, minlength=size)
            freed = np.bincount(owner, weights=discounts[np.minimum(counts, 3)], minlength=size)
            self._orders.append(_Order(keys, counts, discounts, total, freed))

    def _suffix(self, grams: list[np.ndarray], k: int) -> np.ndarray:
        """For every (k+1)-gram, the index of the k-gram left when its first token is dropped."""
        owner, token = grams[k] // self.vocab_size, grams[k] % self.vocab_size
        if k == 1:
            return _lookup(grams[0], token)
        return _lookup(grams[k - 1], self._suffix(grams, k - 1)[owner] * self.vocab_size + token)

    def nats(self, tokens: np.ndarray, starts: np.ndarray | None = None) -> np.ndarray:
        """−log p of every token [T] given the up to order−1 tokens before it, in nats.

        starts: indices at which a text of its own begins, of which nothing before is known.
        """
        tokens = np.asarray(tokens, dtype=np.int64)
        p = np.full(len(tokens), 1.0 / self.vocab_size)
        # contexts[k][i]: id of the k-gram that ends before token i, −1 if it is unseen or begins before the stream
        contexts = [np.zeros(len(tokens), dtype=np.int64)]
        for k, order in enumerate(self._orders):
            context = contexts[k]
            found = np.where(context >= 0, _lookup(order.keys, context * self.vocab_size + tokens), -1)
            count, total = _take(order.counts, found), _take(order.context_total, context)
            known = total > 0
            total = np.where(known, total, 1.0)
            freed = np.where(known, _take(order.context_backoff, context), 1.0)
            p = (count - order.discounts[np.minimum(count, 3)]) / total + freed / total * p
            after = np.full(len(tokens), -1, dtype=np.int64)
            # the (k+1)-gram ending at i−1 is the context of token i
            after[1:] = self._gram_ending(order, contexts[k], tokens)[:-1]
            if starts is not None:
                after[starts] = -1
            contexts.append(after)
        return -np.log(p)

    def nats_after(self, contexts: np.ndarray) -> np.ndarray:
        """−log p of every token [C, V] after each of contexts [C, n], of which the last order−1 tokens count."""
        contexts = np.asarray(contexts, dtype=np.int64)
        count, n = contexts.shape
        p = np.full((count, self.vocab_size), 1.0 / self.vocab_size)
        for k, order in enumerate(self._orders[: n + 1]):
            gram = np.zeros(count, dtype=np.int64)  # id of the last k tokens, −1 if unseen
            for below, token in zip(self._orders, contexts[:, n - k :].T, strict=False):
                gram = self._gram_ending(below, gram, token)
            total = _take(order.context_total, gram)
            known = total > 0
            p[known] *= (_take(order.context_backoff, gram)[known] / total[known])[:, None]
            # the tokens seen after a context are one run of the sorted keys
            start, stop = (np.searchsorted(order.keys, (gram + i) * self.vocab_size) for i in (0, 1))
            for row in np.flatnonzero(known & (stop > start)):
                seen = slice(start[row], stop[row])
                rest = order.counts[seen] - order.discounts[np.minimum(order.counts[seen], 3)]
                p[row, order.keys[seen] % self.vocab_size] += rest / total[row]
        return -np.log(p)

    def _gram_ending(self, order: _Order, context: np.ndarray, tokens: np.ndarray) -> np.ndarray:
        found = _lookup(order.keys, context * self.vocab_size + tokens)
        return np.where(context >= 0, found, -1)
