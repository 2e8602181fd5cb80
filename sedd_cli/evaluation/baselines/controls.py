"""Texts that no network wrote, as controls of generative perplexity: a repeated phrase, unigram and n-gram draws.

Each is drawn from counts of a training text, [T] token ids, in as many texts and of the same lengths as the samples
that they stand beside. All of them can have a low generative perplexity, and none of them is good text.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from sedd_cli.evaluation.baselines.ngram import NGram

#: Training tokens that the controls are counted on, from the beginning of the split.
COUNTED = 4_000_000
#: Tokens of the phrase that is repeated.
PHRASE = 8
#: Order of the n-gram model, and the temperatures it draws at besides 1.
ORDER, TEMPERATURES = 5, (0.8, 0.6, 0.4)
#: Numbers of one block of contexts × vocabulary.
BLOCK = 1 << 22

#: Texts as token ids, of the lengths that were asked for.
Rows = list[list[int]]


def controls(tokens: np.ndarray, vocab_size: int, lengths: Sequence[int], seed: int) -> Iterator[tuple[str, Rows]]:
    """(name, texts of `lengths` tokens) of every control, from training tokens [T]."""
    yield "repeated phrase", repeated_phrase(tokens, lengths)
    yield "unigram draws", unigram_draws(tokens, lengths, seed)
    model = NGram(tokens, vocab_size, ORDER)
    yield f"{ORDER}-gram draws", ngram_draws(model, lengths, 1.0, seed)
    for temperature in TEMPERATURES:
        yield f"{ORDER}-gram, T {temperature:g}", ngram_draws(model, lengths, temperature, seed)


def repeated_phrase(tokens: np.ndarray, lengths: Sequence[int]) -> Rows:
    """The most frequent run of PHRASE tokens, over and over; all texts are alike."""
    size = min(PHRASE, len(tokens))
    gram = np.zeros(len(tokens), dtype=np.int64)  # the number of the run that begins at each token
    for k in range(size):
        keys = gram[: len(tokens) - k] * (int(tokens.max()) + 1) + tokens[k:]
        gram = np.unique(keys, return_inverse=True)[1]
    first = int(np.argmax(gram == np.bincount(gram).argmax()))
    phrase = tokens[first : first + size]
    return [np.resize(phrase, length).tolist() for length in lengths]


def unigram_draws(tokens: np.ndarray, lengths: Sequence[int], seed: int) -> Rows:
    """Independent draws from the frequencies of the tokens."""
    random = np.random.default_rng((seed, 0))
    return [tokens[random.integers(len(tokens), size=length)].tolist() for length in lengths]


def ngram_draws(model: NGram, lengths: Sequence[int], temperature: float, seed: int) -> Rows:
    """Draws from left to right of an n-gram model, whose probabilities are raised to 1/temperature."""
    longest = max(lengths, default=0)
    u = np.random.default_rng((seed, 1)).random((len(lengths), longest))
    rows = np.zeros((len(lengths), longest), dtype=np.int64)
    step = max(1, BLOCK // model.vocab_size)
    for at in range(longest):
        for start in range(0, len(rows), step):
            part = slice(start, start + step)
            log_p = -model.nats_after(rows[part, max(0, at - model.order + 1) : at])
            rows[part, at] = _drawn(log_p / temperature, u[part, at])
    return [row[:length].tolist() for row, length in zip(rows, lengths, strict=True)]


def _drawn(logits: np.ndarray, u: np.ndarray) -> np.ndarray:
    """One index for each row of logits [R, V], by the inverse of the distribution function at u [R]."""
    below = np.exp(logits - logits.max(1, keepdims=True)).cumsum(1)
    return (below < u[:, None] * below[:, -1:]).sum(1)
