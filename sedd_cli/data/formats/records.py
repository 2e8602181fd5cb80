"""Files of records with a text field: JSON lines, JSON, tables with commas or tabs."""

from __future__ import annotations

import csv
import dataclasses
import itertools
import json
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

from sedd_cli.data.formats.decoding import byte_lines, decoded, lines_of, narrow, text_codec
from sedd_cli.data.formats.files import LINE_BYTES, Input, ReadOptions, Tally
from sedd_cli.data.formats.json_list import list_values, refuse_values
from sedd_cli.errors import RequestError, did_you_mean, displayed, first_line, listed

DEFAULT_FIELD = "text"
_MARK = b"\xef\xbb\xbf"

Records = Iterator[tuple[str, Any]]


def json_lines_of(source: Input, reading: ReadOptions) -> Records:
    """(place, record) of each line of JSON; empty lines are skipped. Errors name the line."""
    if text_codec(reading.encoding) != "utf-8-sig":
        for number, line in enumerate(lines_of(decoded(source, reading.encoding), LINE_BYTES), 1):
            if line.strip():
                yield f"line {number:,} of {source.name}", parse_record(source.name, number, line.encode("utf-8"))
        return
    offset = 0
    for number, line in enumerate(byte_lines(source), 1):
        if line.strip():
            yield f"line {number:,} of {source.name}", parse_record(source.name, number, line, offset)
        offset += len(line)


def json_records_of(source: Input, reading: ReadOptions) -> Records:
    """(place, record) of a .json file: a list of records, or JSON lines."""
    if text_codec(reading.encoding) == "utf-8-sig":
        pieces = narrow(source)
    else:
        pieces = (text.encode("utf-8") for text in decoded(source, reading.encoding))
        reading = dataclasses.replace(reading, encoding="utf-8")
    beginning = next((piece for piece in pieces if piece.removeprefix(_MARK).strip()), b"")
    rest = itertools.chain([beginning], pieces)
    joined = Input(source.name, lambda: _Joined(rest))  # type: ignore[arg-type]
    if beginning.removeprefix(_MARK).lstrip().startswith(b"["):
        yield from list_values(decoded(joined, reading.encoding), source.name, _object)
    else:
        yield from json_lines_of(joined, reading)


class _Joined:
    """Pieces as a stream that is read once."""

    def __init__(self, pieces: Iterable[bytes]):
        self._pieces = iter(pieces)

    def read(self, size: int) -> bytes:
        return next(self._pieces, b"")

    def __enter__(self) -> _Joined:
        return self

    def __exit__(self, *_: object) -> None:
        return


def comma_records_of(source: Input, reading: ReadOptions) -> Records:
    """(place, record) of each row of a table whose first row names the columns, separated by commas."""
    return _table(source, reading, ",")


def tab_records_of(source: Input, reading: ReadOptions) -> Records:
    """The same, separated by tabs."""
    return _table(source, reading, "\t")


def _table(source: Input, reading: ReadOptions, separator: str) -> Records:
    before = csv.field_size_limit(LINE_BYTES)
    rows = csv.reader(lines_of(decoded(source, reading.encoding), LINE_BYTES), delimiter=separator, strict=True)
    try:
        names = next(rows, [])
        refuse_repeated_columns(names, reading.field or DEFAULT_FIELD, source, reading.tally)
        for row in rows:
            if row:
                if len(row) != len(names):
                    raise RequestError(
                        f"line {rows.line_num:,} of {source.name} has {len(row)} values, the first {len(names)} names"
                    )
                yield f"line {rows.line_num:,} of {source.name}", dict(zip(names, row, strict=True))
    except csv.Error as error:
        raise RequestError(f"{source.name} is no table: line {rows.line_num:,}: {first_line(error)}") from None
    finally:
        csv.field_size_limit(before)


def parse_record(source: str, number: int, line: bytes, offset: int = 0) -> Any:
    """The JSON value of a line; RequestError names the line, and the byte where it is no UTF-8."""
    refuse_values(line, f"line {number:,} of {source}")
    try:
        return json.loads(line.decode("utf-8-sig"), object_pairs_hook=_object)
    except UnicodeDecodeError as error:
        raise RequestError(
            f"line {number:,} of {source} is not UTF-8, as JSON has to be: "
            f"byte {offset + error.start:,} does not decode"
        ) from error
    except (ValueError, RecursionError) as error:
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else first_line(error)
        if isinstance(error, json.JSONDecodeError) and error.pos >= len(error.doc.rstrip()) and error.doc.strip():
            reason = (
                f"{'the list' if error.doc.lstrip()[0] == '[' else 'the record'} does not end in this line; write each "
                "record in one line (as jq -c . does), or a list of records, [{…}, {…}], in a .json file"
            )
        raise RequestError(f"line {number:,} of {source} is not JSON: {reason}") from None


class Repeated(dict[str, Any]):
    """A JSON object some of whose keys stand in it more than once; the last value counts."""

    repeated: list[str]


def repeated_keys(value: Any) -> list[str]:
    """The keys that stand more than once in one of the objects of a JSON value, at any depth."""
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    own = value.repeated if isinstance(value, Repeated) else []
    return [*own, *(key for part in parts for key in repeated_keys(part))]


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) == len(pairs):
        return found
    marked = Repeated(found)
    marked.repeated = [key for key, count in Counter(key for key, _ in pairs).items() if count > 1]
    return marked


def refuse_repeated_columns(names: list[str], field: str, source: Input, tally: Tally) -> None:
    """RequestError where the column that is read stands twice in a table; other such columns are noted."""
    repeated = {name: count for name, count in Counter(names).items() if count > 1}
    if field in repeated:
        raise RequestError(f"{source.name} has {repeated[field]:,} columns {field!r}: rename all but the one to read")
    if repeated:
        tally.repeated[source.name] = Counter(dict.fromkeys(repeated, 1))


def texts_in(records: Records, source: Input, reading: ReadOptions) -> Iterator[str]:
    """The text of each record. RequestError where its key stands in one twice; `reading.tally` keeps what is lost."""
    field, halves, repeated = reading.field or DEFAULT_FIELD, 0, Counter()
    for where, record in records:
        if isinstance(record, Repeated):
            if field in record.repeated:
                raise RequestError(f"{where} has the key {field!r} more than once")
            repeated.update(record.repeated)
        text = text_of(record, field, where)
        whole = encodable(text)
        halves += 0 if whole is text else whole.count("\ufffd") - text.count("\ufffd")
        yield whole
    if halves:
        reading.tally.halves[source.name] = halves
    if repeated:
        reading.tally.repeated[source.name] = repeated


def text_of(record: Any, field: str, where: str) -> str:
    """The text field of a record; RequestError where it has none."""
    if not isinstance(record, dict):
        raise RequestError(f"{where} is no JSON object but a {type(record).__name__}")
    if field not in record:
        raise RequestError(no_such_field(field, record, where))
    text = record[field]
    if not isinstance(text, str):
        raise RequestError(f"field {field!r} in {where} is no text but a {type(text).__name__}")
    return text


def no_such_field(field: str, found: Iterable[str], where: str) -> str:
    """The message for a field that is not there."""
    held = listed(found) or "none"
    hint = did_you_mean(field, found)
    choice = "choose one with --field (in a recipe data.field)"
    return f"there is no field {field!r} in {where}; found: {held}{hint or '; '}{' ' if hint else ''}{choice}"


def encodable(text: str) -> str:
    """`text` with lone surrogates, which JSON can spell and UTF-8 cannot, replaced by U+FFFD."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def check_sample(record: Any, where: str) -> dict[str, Any]:
    """A record of samples: a "text", or "tokens" of 63 bits, or both; RequestError for anything else."""
    if isinstance(record, Repeated) and (twice := [k for k in record.repeated if k in ("text", "tokens", "draws")]):
        raise RequestError(f"{where} has the key {twice[0]!r} more than once")
    text, tokens = (record.get(key) if isinstance(record, dict) else None for key in ("text", "tokens"))
    numbers = isinstance(tokens, list) and all(type(i) is int and 0 <= i < 2**63 for i in tokens)
    if not isinstance(text, str) and not numbers:
        raise RequestError(f'{where} has neither a "text" nor a list of "tokens"')
    if not isinstance(text, str | None):
        raise RequestError(f'{where}: "text" is no text, found {displayed(text)}')
    if tokens is not None and not numbers:
        raise RequestError(f'{where}: "tokens" is no list of token ids, found {displayed(tokens)}')
    if not isinstance(record.get("draws"), str | None):
        raise RequestError(f'{where}: "draws" is no text, found {displayed(record["draws"])}')
    return {**record, "text": encodable(text)} if isinstance(text, str) else record
