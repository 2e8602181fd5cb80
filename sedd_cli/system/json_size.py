"""How many values a JSON text holds, before it is parsed: values of two bytes each take a hundred in memory."""

from __future__ import annotations

import re
from typing import Any

#: Most values of a record or document, and of a tokenizer's file; keys count, too.
MOST_VALUES, TOKENIZER_VALUES = 1 << 21, 1 << 23
_AROUND_STRINGS = r'([^"]*+)(?:"[^"\\]*+(?:\\.[^"\\]*+)*+"?)?'
_OF_TEXT = re.compile(_AROUND_STRINGS, re.DOTALL)
_OF_BYTES = re.compile(_AROUND_STRINGS.encode(), re.DOTALL)


def holds_more(text: str | bytes, most: int, start: int = 0, stop: int | None = None) -> bool:
    """Whether a part of a JSON text holds more values and keys than `most`. Marks within strings do not count."""
    stop = len(text) if stop is None else stop
    if stop - start <= most or _marks(text, start, stop) <= most:
        return False
    found = 0
    pattern: Any = _OF_TEXT if isinstance(text, str) else _OF_BYTES
    for match in pattern.finditer(text, start, stop):
        found += _marks(text, *match.span(1))
        if found > most:
            return True
    return False


def _marks(text: str | bytes, start: int, stop: int) -> int:
    """The marks before values: each value but the first follows one."""
    if isinstance(text, str):
        return sum(text.count(mark, start, stop) for mark in ",:[{")
    return sum(text.count(mark, start, stop) for mark in (b",", b":", b"[", b"{"))
