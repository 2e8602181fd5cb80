"""Likelihoods that the paper reports (arXiv 2310.16834v3, tables 1 to 3), to stand beside ours."""

from __future__ import annotations

from dataclasses import dataclass

#: Table 1: perplexities of blocks of 1024 GPT-2 tokens, zero-shot. Kind, size → corpus → value.
ZERO_SHOT = {
    ("gpt2", "small"): (45.04, 42.43, 138.43, 41.60, 75.20),
    ("absorbing", "small"): (50.92, 41.84, 114.24, 40.62, 79.29),
    ("uniform", "small"): (65.40, 50.27, 140.12, 49.60, 101.37),
    ("gpt2", "medium"): (35.66, 31.80, 123.14, 31.39, 55.72),
    ("absorbing", "medium"): (42.77, 31.04, 87.12, 29.98, 61.19),
    ("uniform", "medium"): (51.28, 38.93, 102.28, 36.81, 79.12),
}
CORPORA = ("lambada", "wikitext2", "ptb", "wikitext103", "lm1b")
#: The split each value was measured on. WikiText-2 shares its test set with WikiText-103, so the paper took its train.
SPLITS = dict.fromkeys(CORPORA, "test") | {"wikitext2": "train"}
#: Blocks → name of the size.
SIZES = {12: "small", 24: "medium"}
#: Table 2, text8 in bits per character; table 3, One Billion Words in perplexity.
TEXT8 = {"absorbing": 1.39, "uniform": 1.47}
LM1B = {"absorbing": 32.79, "uniform": 40.25}


@dataclass(frozen=True)
class Reported:
    """A value of the paper: in which unit (perplexity or bits_per_char), on which split, in which table."""

    value: float
    unit: str
    split: str
    table: int


def reported(kind: str, layers: int, length: int, tokenizer: str, corpus: str) -> Reported | None:
    """What the paper reports for a model of this kind (a graph, or gpt2), size and tokens; None for any other."""
    size = SIZES.get(layers)
    if tokenizer == "gpt2" and length == 1024 and corpus in CORPORA and (kind, size) in ZERO_SHOT:
        return Reported(ZERO_SHOT[kind, size][CORPORA.index(corpus)], "perplexity", SPLITS[corpus], 1)
    if (corpus, tokenizer, length, size) == ("text8", "text8", 256, "small") and kind in TEXT8:
        return Reported(TEXT8[kind], "bits_per_char", "test", 2)
    if (corpus, tokenizer, length, size) == ("lm1b", "bert-base-uncased", 128, "small") and kind in LM1B:
        return Reported(LM1B[kind], "perplexity", "test", 3)
    return None
