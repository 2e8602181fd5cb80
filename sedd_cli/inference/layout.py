"""Templates in a model's tokens, and filled tokens back in text, the given parts as they were.

A given text is encoded by itself. Where a tokenizer joins a space to the word after it (GPT-2's does), a space in
front of a gap would stand alone, as it hardly ever does in a text a model has seen, and what follows it would be odd.
So such a space is left to the gap, whose text then has to begin with one. `Layout.read` says whether it does; whoever
draws until it does draws from the model's law given that it does.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from sedd_cli.data.tokenizers import Tokenizer
from sedd_cli.errors import RequestError
from sedd_cli.inference.template import Gap, Template


@dataclass(frozen=True)
class Reading:
    """A filled template: its text, the spans of it that were given (start, stop), and the texts of its gaps."""

    text: str
    given: list[tuple[int, int]]
    gaps: list[str]


@dataclass(frozen=True)
class Layout:
    """Token ids of a template's texts; a gap is its length. `spaced` [parts]: gaps that have to begin with a space."""

    template: Template
    parts: tuple[tuple[int, ...] | int, ...]
    spaced: tuple[bool, ...]
    tokenizer: Tokenizer | None

    @property
    def lengths(self) -> list[int]:
        """Tokens of the gaps."""
        return [part for part in self.parts if isinstance(part, int)]

    @cached_property
    def tokens(self) -> tuple[int | None, ...]:
        """What is given, None where it is not, [L]."""
        found: list[int | None] = []
        for part in self.parts:
            found += [None] * part if isinstance(part, int) else part
        return tuple(found)

    def read(self, row: list[int]) -> Reading | None:
        """Filled tokens [L] as text; None where a gap does not begin with the space that it has to."""
        if self.tokenizer is None:
            return None
        text, given, gaps, at = "", [], [], 0
        loose = not self.tokenizer.keeps_spaces
        for original, part, spaced in zip(self.template.parts, self.parts, self.spaced, strict=True):
            stop = at + (part if isinstance(part, int) else len(part))
            if isinstance(original, str):
                given.append((len(text), len(text) + len(original)))
                text += original
            else:
                new = _added(self.tokenizer, row[:at], row[at:stop])
                if spaced and not new.startswith(" "):
                    return None
                # the space stands at the end of the given text already
                again = spaced or (loose and text.endswith(" "))
                gaps.append(new.removeprefix(" ") if again else new)
                text += gaps[-1]
            at = stop
        return Reading(text, given, gaps)


def _added(tokenizer: Tokenizer, before: list[int], ids: list[int]) -> str:
    """The text that ids add to those before them: some tokenizers decode the first one of a text otherwise."""
    left, whole = tokenizer.decode(before), tokenizer.decode([*before, *ids])
    return whole[len(left) :] if whole.startswith(left) else tokenizer.decode(ids)


def lay_out(
    template: Template, lengths: list[int], tokenizer: Tokenizer | None, spaced: bool, total: int | None = None
) -> Layout:
    """A template with gaps of these lengths (those that are not open), in tokens; open gaps share what total leaves.

    spaced: leave a space in front of a gap to it, where the tokenizer joins spaces. Without a total, open gaps have
    one token each. RequestError where a text cannot be expressed or nothing is left for an open gap.
    """
    spaced = spaced and tokenizer is not None and tokenizer.joins_spaces
    parts: list[tuple[int, ...] | int | None] = []
    begins: list[bool] = []
    left, rest = False, list(lengths)
    for number, part in enumerate(template.parts):
        if isinstance(part, Gap):
            parts.append(None if part.open else rest.pop(0))
            begins.append(left)
            left = False
            continue
        before_gap = number + 1 < len(template.parts)
        left = spaced and before_gap and part.endswith(" ")
        parts.append(tuple(prompt_tokens(tokenizer, part[:-1] if left else part)))
        begins.append(False)
    places = [i for i, part in enumerate(parts) if part is None]
    if places:
        taken = sum(part if isinstance(part, int) else len(part) for part in parts if part is not None)
        free = len(places) if total is None else total - taken
        if free < len(places):
            others = f" and gaps of a length of their own {sum(lengths)}" if lengths else ""
            raise RequestError(
                f"the given text takes {taken - sum(lengths)} tokens{others}, of {total} in all: nothing is left to "
                "fill; raise --length, as far as the model allows, or shorten it"
            )
        for rank, place in enumerate(places):
            parts[place] = free // len(places) + (rank < free % len(places))
    return Layout(template, tuple(parts), tuple(begins), tokenizer)


def prompt_tokens(tokenizer: Tokenizer | None, text: str) -> list[int]:
    """Token ids of a given text; RequestError names the characters that the vocabulary cannot express."""
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
        strange = sorted({c for c in text if tokenizer.unknown in tokenizer.encode(c)})
        raise RequestError(f"the tokenizer {tokenizer.spec} cannot represent {', '.join(map(repr, strange))}")
    return ids
