"""What n-gram models, and the source of a synthetic corpus, make of the same text."""

from __future__ import annotations

import math
from collections.abc import Generator

from sedd_cli.data.corpora import CORPORA
from sedd_cli.data.shards import Dataset
from sedd_cli.evaluation.baselines.ngram import NGram
from sedd_cli.evaluation.likelihood.protocols import Blocks
from sedd_cli.system.events import Event, Note

#: An n-gram model sorts the training tokens in memory; for longer training splits it is left out.
MOST_TOKENS = 20_000_000


def baselines(dataset: Dataset, blocks: Blocks) -> Generator[Event, None, dict[str, float]]:
    """Bits per character by name: n-grams estimated on train, and the exact source of a synthetic corpus."""
    found: dict[str, float] = {}
    if "train" not in dataset.splits:
        yield Note("no n-gram baselines: there is no training split to estimate them on")
    elif blocks.split.name != "train":
        if dataset.split("train").tokens <= MOST_TOKENS:
            yield Note("estimating the n-gram baselines on the training split")
            found |= ngrams(dataset, blocks)
        else:
            yield Note(f"no n-gram baselines: the training split has over {MOST_TOKENS:,} tokens")
    corpus = CORPORA.get(dataset.manifest.corpus)
    if corpus and corpus.process:
        if math.isfinite(bits := source_bits(dataset, blocks)):  # infinite where decoding changed the characters
            found["the source itself"] = bits
        found["entropy rate"] = corpus.process.entropy_rate() / math.log(2)
    return found


def ngrams(dataset: Dataset, blocks: Blocks) -> dict[str, float]:
    """Bits per character of n-gram models on the text of the blocks.

    They read what the model reads, each block by itself. The second 5-gram reads the text in one piece, with
    the tokens before a block known.
    """
    train, text = dataset.split("train"), blocks.split
    counted, scored = train.read(0, train.tokens), text.read(0, int(blocks.spans[-1, 1]))
    to_bits = 1 / blocks.size.characters / math.log(2)
    size, starts = dataset.tokenizer.vocab_size, blocks.spans[:, 0]
    unigram, five = (NGram(counted, size, order) for order in (1, 5))
    found = {
        "unigram": unigram.nats(scored),
        "5-gram": five.nats(scored, starts),
        "5-gram, in one piece": five.nats(scored),
    }
    return {name: float(nats.sum() * to_bits) for name, nats in found.items()}


def source_bits(dataset: Dataset, blocks: Blocks) -> float:
    """Bits per character of these blocks, each by itself, under the distribution they were drawn from.

    No model can be expected to do better.
    """
    source, nats, characters = CORPORA[dataset.manifest.corpus].process, 0.0, 0
    if source is None:
        raise ValueError(f"{dataset.manifest.corpus} is not a synthetic corpus")
    for start, stop in blocks.spans:
        ids = blocks.split.read(int(start), int(stop))
        text = dataset.tokenizer.decode(ids[ids != dataset.tokenizer.eos].tolist())
        nats += float(source.nats(text).sum())
        characters += len(text)
    return nats / characters / math.log(2)
