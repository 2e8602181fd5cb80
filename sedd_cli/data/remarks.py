"""What a tokenizer adds to texts and loses of them, in sentences for the user and the manifest."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterator

from sedd_cli.data.corpora import Source
from sedd_cli.data.manifest import SplitInfo
from sedd_cli.data.tokenizers import Tokenizer
from sedd_cli.data.tokenizers.huggingface import HuggingFaceTokenizer
from sedd_cli.data.tokenizers.reindexed import ReindexedTokenizer
from sedd_cli.system.events import Note, Warn


def unknown_remarks(splits: dict[str, SplitInfo]) -> Iterator[str]:
    """What the vocabulary lacks, by split."""
    for split, info in splits.items():
        if info.unknown:
            yield f"{info.unknown:,} tokens of {split} are unknown: they stand for text that the vocabulary lacks"


#: Documents, and characters of each, that are encoded and decoded to see what the tokenizer loses.
TRIED, TRIED_CHARACTERS = 64, 4096


def tokenizer_remarks(tokenizer: Tokenizer, source: Source, clean: Callable[[str], str]) -> Iterator[Note]:
    """Which token separates documents, and the share of the text that does not come back from the tokens."""
    base = tokenizer.base if isinstance(tokenizer, ReindexedTokenizer) else tokenizer
    if not isinstance(base, HuggingFaceTokenizer):
        return
    if tokenizer.eos is None or base.eos is None:
        yield Warn(
            f"the tokenizer {tokenizer.spec} names no end-of-text token: documents follow each other without a "
            "separator; name one with --eos"
        )
    else:
        yield Note(f"documents are separated by the token {base.token(base.eos)!r}")
    documents = itertools.islice(next(iter(source.splits.values()))(), TRIED)
    lost, size = 0, 0
    for text in (clean(document)[:TRIED_CHARACTERS] for document in documents):
        lost += sum((Counter(text) - Counter(tokenizer.decode(tokenizer.encode(text)))).values())
        size += len(text)
    if lost:
        yield Warn(
            f"the tokenizer {tokenizer.spec} does not give back {lost / size:.1%} of the characters "
            f"of {source.location} (tried on its first documents): bits per character are too low by what is lost"
        )
