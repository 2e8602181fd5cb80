r"""Templates, texts with gaps such as "The [MASK:12] sat on [MASK:5–20], because [MASK].".

`[MASK:12]` is a gap of twelve tokens, `[MASK:5-20]` one of five to twenty (a hyphen, an en dash or an em dash).
`[MASK]` is an open gap: one token, or, where the length of the whole is given, its share of what is left. A literal
bracket is written `\[` or `\]`. Of backslashes directly in front of a bracket, `\\` is one; all others are literal.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from sedd_cli.errors import RequestError

_MARK = re.compile(r"(\\*)([\[\]])")
_GAP = re.compile(r"MASK(?:\s*:\s*([0-9]{1,9})(?:\s*[-–—]\s*([0-9]{1,9}))?)?\s*")
_SYNTAX = r"a gap is written [MASK], [MASK:12] or [MASK:5-20], a bracket of the text \[ or \]"


@dataclass(frozen=True)
class Gap:
    """A gap of `low` to `high` tokens. Both None: an open gap, whose length follows from that of the whole."""

    low: int | None = None
    high: int | None = None

    @property
    def is_open(self) -> bool:
        """Whether the gap is open."""
        return self.low is None

    @property
    def lengths(self) -> range:
        """The lengths that a closed gap may have."""
        assert self.low is not None
        assert self.high is not None
        return range(self.low, self.high + 1)


@dataclass(frozen=True)
class Template:
    """Given texts and gaps, from left to right; no text is empty, and no two are adjacent."""

    parts: tuple[str | Gap, ...]

    @property
    def gaps(self) -> list[Gap]:
        """The gaps from left to right."""
        return [part for part in self.parts if isinstance(part, Gap)]

    @property
    def texts(self) -> list[str]:
        """The given texts from left to right."""
        return [part for part in self.parts if isinstance(part, str)]

    def __str__(self) -> str:
        last = len(self.parts) - 1
        return "".join(
            escape(part, gap_follows=place < last) if isinstance(part, str) else _spelled(part)
            for place, part in enumerate(self.parts)
        )


def gap_between(prefix: str, suffix: str) -> Template:
    """An open gap between two texts, in which brackets are ordinary characters."""
    return Template(tuple(part for part in (prefix, Gap(), suffix) if part != ""))


def escape(text: str, gap_follows: bool = True) -> str:
    """`text` with its brackets escaped, so that a template takes it literally."""
    before = r"(\\*)([\[\]]|\Z)" if gap_follows else r"(\\*)([\[\]])"
    return re.sub(before, lambda found: 2 * found[1] + (f"\\{found[2]}" if found[2] else ""), text)


def parse_template(text: str) -> Template:
    """Parse a template. RequestError with the position of unbalanced brackets, empty gaps, or without any gap."""
    parts: list[str | Gap] = []
    literal, at = "", 0
    while found := _MARK.search(text, at):
        backslashes, bracket = found.groups()
        literal += text[at : found.start()] + backslashes[: len(backslashes) // 2]
        if len(backslashes) % 2:
            literal += bracket
            at = found.end()
            continue
        if bracket == "]":
            raise RequestError(f"template: unbalanced ']' at character {found.end()}: {_SYNTAX}")
        stop = text.find("]", found.end())
        if stop < 0:
            raise RequestError(f"template: unbalanced '[' at character {found.end()}: {_SYNTAX}")
        if literal:
            parts.append(literal)
            literal = ""
        parts.append(_gap(text[found.end() : stop]))
        at = stop + 1
    literal += text[at:]
    if literal:
        parts.append(literal)
    template = Template(tuple(parts))
    if not template.gaps:
        raise RequestError(f"template: there is no gap to fill: {_SYNTAX}")
    return template


def _gap(inside: str) -> Gap:
    found = _GAP.fullmatch(inside)
    if not found:
        raise RequestError(f"template: [{inside}] is no gap: {_SYNTAX}")
    if found[1] is None:
        return Gap()
    low, high = int(found[1]), int(found[2] or found[1])
    if low < 1:
        raise RequestError(f"template: [{inside}]: a gap has one token or more")
    if high < low:
        raise RequestError(f"template: [{inside}]: write the smaller number first, {high}-{low}")
    return Gap(low, high)


def _spelled(gap: Gap) -> str:
    if gap.is_open:
        return "[MASK]"
    return f"[MASK:{gap.low}]" if gap.low == gap.high else f"[MASK:{gap.low}-{gap.high}]"
