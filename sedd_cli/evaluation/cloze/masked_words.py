"""Choose whole words in blocks of held-out text, to be masked and restored."""

from __future__ import annotations

import random
import re
from dataclasses import dataclass

from sedd_cli.data.tokenizers import Tokenizer
from sedd_cli.evaluation.likelihood.protocols import Blocks
from sedd_cli.inference.denoise import derived

#: Least number of letters of a word, and of tokens of its block on either side.
LETTERS, CONTEXT = 3, 8
#: A run of letters of any script; digits and underscores end it.
WORD = re.compile(rf"[^\W\d_]{{{LETTERS},}}")

Tokens = tuple[int, ...]


@dataclass(frozen=True)
class MaskedWord:
    """A word to restore: tokens `start` to `stop` of block number `block`, whose ids are `tokens` [L]."""

    block: int
    tokens: Tokens
    start: int
    stop: int

    @property
    def truth(self) -> Tokens:
        """The word's tokens, [k]."""
        return self.tokens[self.start : self.stop]

    @property
    def masked(self) -> tuple[int | None, ...]:
        """The block with None in place of the word, [L]."""
        return (*self.tokens[: self.start], *[None] * len(self.truth), *self.tokens[self.stop :])

    def filled(self, word: Tokens) -> list[int]:
        """The block with another word [k] in its place, [L]."""
        return [*self.tokens[: self.start], *word, *self.tokens[self.stop :]]


def choose_words(blocks: Blocks, tokenizer: Tokenizer, n: int, seed: int) -> list[MaskedWord]:
    """n words, or all if there are fewer; blocks and the words of each block are shuffled by the seed.

    No block contributes its second word before all blocks have contributed their first.
    """
    order, found, later = list(range(len(blocks))), [], []
    random.Random(derived(seed, "blocks")).shuffle(order)
    for number in order:
        if len(found) == n:
            return found
        words = _words(blocks, tokenizer, number)
        random.Random(derived(seed, "words", number)).shuffle(words)
        found += words[:1]
        later.append(words[1:])
    while len(found) < n and any(later):
        found += [words.pop(0) for words in later if words]
    return found[:n]


def _words(blocks: Blocks, tokenizer: Tokenizer, number: int) -> list[MaskedWord]:
    """Every word of a block that can be masked."""
    tokens: Tokens = tuple(blocks.split.read(*map(int, blocks.spans[number])).tolist())
    text, cuts = _boundaries(tokenizer, tokens)
    found = []
    for word in WORD.finditer(text):
        start, stop = cuts.get(word.start()), cuts.get(word.end())
        if start is None and text[word.start() - 1 : word.start()] == " ":
            start = cuts.get(word.start() - 1)
        if start is None or stop is None or start < CONTEXT or len(tokens) - stop < CONTEXT:
            continue
        if tokenizer.unknown is None or tokenizer.unknown not in tokens[start:stop]:
            found.append(MaskedWord(number, tokens, start, stop))
    return found


def _boundaries(tokenizer: Tokenizer, tokens: Tokens) -> tuple[str, dict[int, int]]:
    """The text of tokens [L], and character position → number of tokens before it, where a token ends there."""
    text = tokenizer.decode(tokens)
    before = (tokenizer.decode(tokens[:at]) for at in range(len(tokens)))
    return text, {len(part): at for at, part in enumerate(before) if text.startswith(part)}
