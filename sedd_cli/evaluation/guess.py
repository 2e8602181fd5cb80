"""What an n-gram model reads in a gap: the yardstick for restored words."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sedd_cli.evaluation.ngram import NGram

#: The beginnings of a gap that are pursued, and the whole gaps at least that are read with what follows.
WIDTH, WHOLE = 64, 4096


def guess(ngram: NGram, left: Sequence[int], right: Sequence[int], k: int, width: int = WIDTH) -> tuple[int, ...]:
    """The k tokens that make themselves and `right` most probable after `left` (order − 1 tokens or more).

    A beam search: of the first tokens of the gap only the `width` likeliest after `left` are pursued; of the whole
    gaps V, 4096 at least, are read on to the end of `right`. For k = 1 all tokens are tried.
    """
    words, nats = np.zeros((1, 0), dtype=np.int64), np.zeros(1)
    for place in range(k):
        extended = (nats[:, None] + ngram.nats_after(_joined(left, words))).ravel()
        kept = np.argsort(extended, kind="stable")[: width if place + 1 < k else max(WHOLE, ngram.vocab_size)]
        words = np.column_stack([words[kept // ngram.vocab_size], kept % ngram.vocab_size])
        nats = extended[kept]
    # one stream: where a row begins it sees the one before it, but its gap and all behind it see `left` and no further
    rows = _joined(left, words, right)
    nats = ngram.nats(rows.ravel()).reshape(rows.shape)[:, len(left) :].sum(1)
    return tuple(words[int(nats.argmin())].tolist())


def greedy(ngram: NGram, left: Sequence[int], k: int) -> tuple[int, ...]:
    """The likeliest token after `left`, and so on from it, [k]."""
    found: list[int] = []
    for _ in range(k):
        found.append(int(ngram.nats_after(np.array([[*left, *found]])).argmin()))
    return tuple(found)


def _joined(left: Sequence[int], words: np.ndarray, right: Sequence[int] = ()) -> np.ndarray:
    """Each of words [M, k] between the same two contexts, [M, left + k + right]."""
    sides = (np.tile(np.array(side, dtype=np.int64), (len(words), 1)) for side in (left, right))
    return np.column_stack([next(sides), words, next(sides)])
