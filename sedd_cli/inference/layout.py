"""Templates in a model's tokens, and filled tokens back to text, with the given parts unchanged.

Each given text is encoded separately. Many tokenizers (GPT-2's) join a space to the word after it. With them a space in
front of a gap would be a token of its own, which is rare in training text and leads to odd continuations. Such a space
is therefore left to the gap, whose text then has to begin with one; `Layout.read` returns None where it does not.
A blank line in front of a gap has the tokens that it has in front of a word. To GPT-2's tokenizer these are two line
breaks; the one token of both stands in front of more white space alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from sedd_cli.data.tokenizers import Tokenizer
from sedd_cli.errors import RequestError, displayed, listed
from sedd_cli.inference.template import Gap, Template

#: What decoders write for a character whose bytes are incomplete.
CUT = "\ufffd"


@dataclass(frozen=True)
class FilledTemplate:
    """The whole text, the (start, stop) spans of its given parts, and the texts of its gaps."""

    text: str
    given: list[tuple[int, int]]
    gaps: list[str]


@dataclass(frozen=True)
class Layout:
    """A template's texts as token ids, its gaps as lengths. `spaced` [parts]: gaps that must begin with a space.

    ends: tokens that end the text of a gap; they and what follows them in the gap are not shown.
    """

    template: Template
    parts: tuple[tuple[int, ...] | int, ...]
    spaced: tuple[bool, ...]
    tokenizer: Tokenizer | None
    ends: frozenset[int] = frozenset()

    @property
    def lengths(self) -> list[int]:
        """Lengths of the gaps."""
        return [part for part in self.parts if isinstance(part, int)]

    @cached_property
    def tokens(self) -> tuple[int | None, ...]:
        """Given tokens [L], None in gaps."""
        found: list[int | None] = []
        for part in self.parts:
            found += [None] * part if isinstance(part, int) else part
        return tuple(found)

    def read(self, row: list[int]) -> FilledTemplate | None:
        """Filled tokens [L] as text; None where a gap lacks the space it must begin with, or without a tokenizer."""
        if self.tokenizer is None:
            return None
        text, given, gaps, at = "", [], list[str](), 0
        run, run_at, begun = list[int](), 0, 0  # gaps without text between them: their tokens, where they and it begin
        loose = not self.tokenizer.keeps_spaces
        for original, part, spaced in zip(self.template.parts, self.parts, self.spaced, strict=True):
            stop = at + (part if isinstance(part, int) else len(part))
            if isinstance(original, str):
                given.append((len(text), len(text) + len(original)))
                text += original
                run, run_at, begun = [], stop, len(text)
            else:
                shown = next((i for i in range(at, stop) if row[i] in self.ends), stop)
                new = _added(self.tokenizer, row[:at], row[at:shown])
                run += row[at:shown]
                if text.endswith(CUT, begun):  # the bytes of a character may lie in several gaps
                    known, whole = text[begun:].rstrip(CUT), _added(self.tokenizer, row[:run_at], run)
                    whole = whole if whole.startswith(known) else whole.removeprefix(" ")
                    if whole.startswith(known):
                        gaps = _shortened(gaps, len(text) - begun - len(known))
                        text, new = text[:begun] + known, whole[len(known) :]
                if spaced and not new.startswith(" "):
                    return None
                # the given text already ends in this space
                repeated = spaced or (loose and text.endswith(" "))
                gaps.append(new.removeprefix(" ") if repeated else new)
                text += gaps[-1]
            at = stop
        return FilledTemplate(text, given, gaps)


def _shortened(texts: list[str], characters: int) -> list[str]:
    """Texts without so many characters at the end of all of them together."""
    found = list(texts)
    for place in reversed(range(len(found))):
        kept = max(0, len(found[place]) - characters)
        characters -= len(found[place]) - kept
        found[place] = found[place][:kept]
    return found


def _added(tokenizer: Tokenizer, before: list[int], ids: list[int]) -> str:
    """The text that ids add to those before them: some tokenizers decode the first token of a text differently."""
    left, whole = tokenizer.decode(before), tokenizer.decode([*before, *ids])
    return whole[len(left) :] if whole.startswith(left) else tokenizer.decode(ids)


def lay_out(
    template: Template, lengths: list[int], tokenizer: Tokenizer | None, spaced: bool, total: int | None = None
) -> Layout:
    """A template in tokens, with closed gaps of these lengths; open gaps share what `total` leaves, or have one token.

    spaced: leave the space in front of a gap to the gap, where the tokenizer joins spaces. RequestError where a text
    cannot be expressed or nothing is left for an open gap.
    """
    spaced = spaced and tokenizer is not None and tokenizer.joins_spaces
    texts: dict[int, tuple[int, ...]] = {}
    leads: list[bool] = []
    left = False
    for place, part in enumerate(template.parts):
        leads.append(left and isinstance(part, Gap))
        left = False
        if isinstance(part, str):
            gap_follows = place + 1 < len(template.parts)
            left = spaced and gap_follows and part.endswith(" ")
            given = prompt_tokens(tokenizer, part[:-1] if left else part)
            texts[place] = tuple(given if left or not gap_follows else _before_a_word(tokenizer, part, given))
    taken = sum(map(len, texts.values()))
    own, shares = iter(lengths), iter(_shares(template, taken, sum(lengths), total))
    parts = (
        texts[place] if isinstance(part, str) else next(shares if part.is_open else own)
        for place, part in enumerate(template.parts)
    )
    return Layout(template, tuple(parts), tuple(leads), tokenizer)


def _shares(template: Template, given: int, closed: int, total: int | None) -> list[int]:
    """Lengths of the open gaps: equal shares of what the given and the closed tokens leave of the total."""
    count = sum(gap.is_open for gap in template.gaps)
    if total is None or not count:
        return [1] * count
    free = total - given - closed
    if free < count:
        others = f" and gaps of a length of their own {closed}" if closed else ""
        raise RequestError(
            f"the given text takes {given} tokens{others}, of {total} in all: nothing is left to "
            "fill; raise --length, as far as the model allows, or shorten it"
        )
    return [free // count + (rank < free % count) for rank in range(count)]


def prompt_tokens(tokenizer: Tokenizer | None, text: str) -> list[int]:
    """Token ids of a given text. RequestError names the characters that the vocabulary cannot express."""
    if not text:
        return []
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise RequestError(f"{text[error.start]!r} in the given text is no character: is it UTF-8?") from None
    if tokenizer is None:
        raise RequestError("the model names no tokenizer: name one with --tokenizer")
    ids = list(map(int, tokenizer.encode(text)))
    if tokenizer.unknown is not None and tokenizer.unknown in ids:
        strange = sorted(set(tokenizer.unknown_parts(text)))
        raise RequestError(f"the tokenizer {tokenizer.spec} cannot represent {listed(map(displayed, strange))}")
    return ids


def _before_a_word(tokenizer: Tokenizer | None, text: str, ids: list[int]) -> list[int]:
    """Token ids of a text that ends in a line break or a tab, as they are where a word follows; else `ids`, its own."""
    if tokenizer is None or text.endswith(" ") or not text[-1:].isspace():
        return ids
    try:
        word, whole = tokenizer.encode("a"), list(map(int, tokenizer.encode(f"{text}a")))
    except RequestError:  # the vocabulary lacks the word
        return ids
    head = whole[: len(whole) - len(word)]
    return head if [*head, *word] == whole and tokenizer.decode(head) == text else ids


def round_trip_warning(tokenizer: Tokenizer | None, text: str) -> str | None:
    """A warning where a given text does not survive encoding and decoding (as with BERT's lower case)."""
    if tokenizer is None:
        return None
    read = tokenizer.decode(tokenizer.encode(text))
    if read == text:
        return None
    return f"the tokenizer changes {displayed(text)} to {displayed(read)}: the model gets the latter"
