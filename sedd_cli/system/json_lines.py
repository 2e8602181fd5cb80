"""JSON for every reader, and files of JSON objects, one a line, that a crash may have cut short."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

#: Larger numbers overflow in means.
LARGEST = 1e30
#: Most values of a record or document, and of a tokenizer's file; keys count, too.
MOST_VALUES, TOKENIZER_VALUES = 1 << 21, 1 << 23
_AROUND_STRINGS = r'([^"]*+)(?:"[^"\\]*+(?:\\.[^"\\]*+)*+"?)?'
_OF_TEXT = re.compile(_AROUND_STRINGS, re.DOTALL)
_OF_BYTES = re.compile(_AROUND_STRINGS.encode(), re.DOTALL)


@dataclass(frozen=True)
class JsonLine:
    """A line as bytes without its newline, whether it had one, and its JSON object (None where it holds none)."""

    raw: bytes
    ended: bool
    record: dict[str, Any] | None

    def cut_short(self, beginning: str) -> bool:
        """Whether the line is a record that a crash cut short, given how every record of the file begins.

        The beginning distinguishes such a line from one of another program.
        """
        begins = beginning.encode()
        return self.record is None and (self.raw.startswith(begins) or begins.startswith(self.raw))


def read_json_line(raw: bytes) -> JsonLine:
    """A line with its newline, if it has one."""
    text = raw.removesuffix(b"\n")
    return JsonLine(text, text != raw, _record(text))


def read_json_lines(path: Path) -> list[JsonLine]:
    """All lines of a file, empty ones too; none where there is no file."""
    if not path.is_file():
        return []
    *whole, rest = path.read_bytes().split(b"\n")
    lines = [JsonLine(raw, True, _record(raw)) for raw in whole]
    return [*lines, JsonLine(rest, False, _record(rest))] if rest else lines


def json_lines(records: Iterable[dict[str, Any]]) -> str:
    """Records as the text of such a file."""
    return "".join(json_text(record) + "\n" for record in records)


def _record(raw: bytes) -> dict[str, Any] | None:
    if holds_more(raw, MOST_VALUES):
        return None
    try:
        found = json.loads(raw)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def finite(value: Any) -> Any:
    """A JSON value with null for NaN and the infinities, which JSON cannot express."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: finite(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [finite(one) for one in value]
    return value


def is_number(value: Any) -> bool:
    """Whether a JSON value is a finite number of which means can be computed."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= LARGEST


def not_finite(value: Any, name: str = "") -> list[str]:
    """Where in a JSON value NaN and the infinities stand, as dotted names: what `json_text` writes as null."""
    if isinstance(value, float):
        return [] if math.isfinite(value) else [name]
    parts = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list | tuple) else ()
    return [found for key, one in parts for found in not_finite(one, f"{name}.{key}" if name else str(key))]


def json_text(value: Any, indent: int | None = None, ascii_only: bool = False) -> str:
    """A value as JSON that every parser reads and every file can hold.

    NaN and the infinities become null; halves of surrogate pairs, which UTF-8 cannot hold, are escaped.
    """
    text = json.dumps(finite(value), indent=indent, ensure_ascii=ascii_only, allow_nan=False, default=str)
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        text = json.dumps(finite(value), indent=indent, ensure_ascii=True, allow_nan=False, default=str)
    return text


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
