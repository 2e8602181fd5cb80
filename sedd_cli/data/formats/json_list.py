"""The records of a JSON list, read one at a time: a list may be longer than memory."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from typing import Any

from sedd_cli.data.formats.files import LINE_BYTES
from sedd_cli.errors import RequestError, first_line
from sedd_cli.system.json_lines import MOST_VALUES, holds_more

_SPACE = re.compile(r"[ \t\r\n]*")
#: An error this far before the end of what is held is none of a value that goes on; `\\uD800\\uDC00` has 12 characters.
_LONGEST_WORD = 16
#: A number that ends this far before the end of what is held may go on, as `1` does in `1e+5`.
_EXPONENT = 2
#: Most characters that are held for the first time at once: they are parsed before their values are counted.
STEP = 1 << 24


class _Held:
    """The text that is held: `at` is the place of the next value, `before` the characters before the text."""

    def __init__(self, pieces: Iterator[str]):
        self._pieces, self.text, self.at, self.before = pieces, "", 0, 0

    def grow(self) -> bool:
        """Hold the text from `at` on, twice as much of it or STEP more; False at the end."""
        self.before += self.at
        found, self.at = [self.text[self.at :]], 0
        size = before = len(found[0])
        while size <= before + min(before, STEP) and (piece := next(self._pieces, "")):
            found.append(piece)
            size += len(piece)
        self.text = "".join(found)
        return size > before

    def mark(self) -> str:
        """The next character that is no white space; "" at the end."""
        while True:
            self.at = _SPACE.match(self.text, self.at).end()  # type: ignore[union-attr]  (matches everywhere)
            if self.at < len(self.text) or not self.grow():
                return self.text[self.at : self.at + 1]


def list_values(
    pieces: Iterator[str], name: str, pairs: Callable[[list[tuple[str, Any]]], Any]
) -> Iterator[tuple[str, Any]]:
    """(place, value) of each value of the list that a text is; RequestError names the record."""
    held, decoder = _Held(pieces), json.JSONDecoder(object_pairs_hook=pairs)
    where, number = name, 0
    try:
        closed = held.mark() != "["
        held.at += 1
        if not closed and held.mark() == "]":
            closed, held.at = True, held.at + 1
        while not closed:
            number += 1
            where = f"record {number:,} of {name}"
            yield where, _value(held, decoder, where)
            after = held.mark()
            if after not in ("]", ","):
                raise json.JSONDecodeError("Expecting ',' or ']'", held.text, held.at)
            closed, held.at = after == "]", held.at + 1
        where = name
        if held.mark():
            raise json.JSONDecodeError("Extra data after the list", held.text, held.at)
    except json.JSONDecodeError as error:
        cut = error.pos >= len(held.text.rstrip())
        at = f"{error.msg.removesuffix(' at')} at character {held.before + error.pos:,}"
        reason = "the list does not end" if cut else at
        raise RequestError(f"{where} is not JSON: {reason}") from None
    except (ValueError, RecursionError) as error:
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else first_line(error)
        raise RequestError(f"{where} is not JSON: {reason}") from None


def _value(held: _Held, decoder: json.JSONDecoder, where: str) -> Any:
    """The next value, for which as much text is held as it needs."""
    held.mark()
    ended = False
    while True:
        try:
            value, end = decoder.raw_decode(held.text, held.at)
        except json.JSONDecodeError as error:
            if ended or (not error.msg.startswith("Unterminated") and error.pos + _LONGEST_WORD < len(held.text)):
                raise
        else:
            if ended or end + _EXPONENT < len(held.text):
                break
        refuse_values(held.text, where, held.at)
        if len(held.text) - held.at > LINE_BYTES:
            raise RequestError(
                f"{where} is longer than {LINE_BYTES >> 20} MiB (the limit LINE_BYTES): cut its text into records"
            )
        ended = not held.grow()
    refuse_values(held.text, where, held.at, end)
    held.at = end
    return value


def refuse_values(text: str | bytes, where: str, start: int = 0, stop: int | None = None) -> None:
    """RequestError for a record of more than MOST_VALUES values, each of which takes far more memory than bytes."""
    if holds_more(text, MOST_VALUES, start, stop):
        raise RequestError(
            f"{where} holds more than {MOST_VALUES:,} JSON values (the limit MOST_VALUES): keep its text alone, as "
            "jq -c '{text}' does"
        )
