"""What other models, and the source itself where it is known, make of the same text."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from sedd_cli.data.corpora import CORPORA
from sedd_cli.data.shards import Dataset
from sedd_cli.evaluation.likelihood.protocols import Blocks
from sedd_cli.evaluation.ngram import NGram
from sedd_cli.system.events import Event, Note

#: Fitting an n-gram sorts the training tokens in memory; beyond this many it is left out.
MOST_TOKENS = 20_000_000


def baselines(dataset: Dataset, blocks: Blocks) -> Iterator[Event]:
    """Returns bits per character, by name: n-grams fitted on train, and the exact source of a synthetic corpus."""
    found: dict[str, Any] = {}
    split = blocks.split.name
    if "train" not in dataset.splits:
        yield Note("no n-gram baselines: there is no training split to fit them on")
    elif split != "train":
        if dataset.split("train").tokens <= MOST_TOKENS:
            yield Note("fitting the n-gram baselines on the training split")
            found |= ngrams(dataset, blocks)
        else:
            yield Note(f"no n-gram baselines: the training split has over {MOST_TOKENS:,} tokens")
    corpus = CORPORA.get(dataset.manifest.corpus)
    if corpus and corpus.process:
        if math.isfinite(bits := source_bits(dataset, blocks)):  # the tokens may not tell what the characters were
            found["the source itself"] = bits
        found["entropy rate"] = corpus.process.entropy_rate() / math.log(2)
    return found


def ngrams(dataset: Dataset, blocks: Blocks) -> dict[str, float]:
    """Bits per character, on the text of the blocks, of n-gram models of the same tokens fitted on the training split.

    They read on from block to block.
    """
    train, text = dataset.split("train"), blocks.split
    fitted, scored = train.read(0, train.tokens), text.read(0, int(blocks.spans[-1, 1]))
    to_bits = 1 / blocks.size.characters / math.log(2)
    size = dataset.tokenizer.vocab_size
    return {
        f"{order}-gram" if order > 1 else "unigram": float(NGram(fitted, size, order).nats(scored).sum() * to_bits)
        for order in (1, 5)
    }


def source_bits(dataset: Dataset, blocks: Blocks) -> float:
    """Bits per character of these very blocks, each by itself, under the law they were drawn from: no model of them
    can be expected to do better."""
    law, nats, characters = CORPORA[dataset.manifest.corpus].process, 0.0, 0
    for start, stop in blocks.spans:
        ids = blocks.split.read(int(start), int(stop))
        text = dataset.tokenizer.decode(ids[ids != dataset.tokenizer.eos])
        nats += float(law.nats(text).sum())
        characters += len(text)
    return nats / characters / math.log(2)
