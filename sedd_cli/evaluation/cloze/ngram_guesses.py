"""How an n-gram model restores masked words: the baseline of the cloze."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sedd_cli.evaluation.baselines.ngram import NGram

#: Width of the beam over partial words, and the least number of whole words that are scored with the right context.
WIDTH, WHOLE = 64, 4096


def guess(ngram: NGram, left: Sequence[int], right: Sequence[int], k: int, width: int = WIDTH) -> tuple[int, ...]:
    """The k tokens that with `right` are most probable after `left` (order − 1 tokens or more).

    A beam search keeps the `width` most probable beginnings after `left`. Of the whole words the V most probable
    ones, 4096 at least, are scored up to the end of `right`; for k = 1 these are all tokens.
    """
    words, nats = np.zeros((1, 0), dtype=np.int64), np.zeros(1)
    for place in range(k):
        extended = (nats[:, None] + ngram.nats_after(_joined(left, words))).ravel()
        kept = np.argsort(extended, kind="stable")[: width if place + 1 < k else max(WHOLE, ngram.vocab_size)]
        words = np.column_stack([words[kept // ngram.vocab_size], kept % ngram.vocab_size])
        nats = extended[kept]
    # the rows are scored as one stream: only the tokens of `left`, which are cut off, depend on the row before
    rows = _joined(left, words, right)
    nats = ngram.nats(rows.ravel()).reshape(rows.shape)[:, len(left) :].sum(1)
    return tuple(words[int(nats.argmin())].tolist())


def greedy(ngram: NGram, left: Sequence[int], k: int) -> tuple[int, ...]:
    """The most probable token after `left`, k times in succession."""
    found: list[int] = []
    for _ in range(k):
        found.append(int(ngram.nats_after(np.array([[*left, *found]])).argmin()))
    return tuple(found)


def _joined(left: Sequence[int], words: np.ndarray, right: Sequence[int] = ()) -> np.ndarray:
    """Each of words [M, k] between the same left and right context, [M, left + k + right]."""
    before, after = (np.tile(np.array(side, dtype=np.int64), (len(words), 1)) for side in (left, right))
    return np.column_stack([before, words, after])
