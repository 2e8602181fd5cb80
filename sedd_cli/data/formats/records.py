"""Files of records with a text field: JSON lines, JSON, tables with commas or tabs, parquet."""

from __future__ import annotations

import csv
import itertools
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from sedd_cli.data.formats.files import (
    LINE_BYTES,
    Budget,
    Input,
    ReadOptions,
    byte_lines,
    decoded,
    lines_of,
    text_codec,
)
from sedd_cli.errors import DamageError, RequestError, displayed, first_line, listed
from sedd_cli.system.documents import EqualKeysError, strict_json

DEFAULT_FIELD = "text"
#: Most bytes of a .json file, which is read at once.
JSON_BYTES = 1 << 28
_ROWS = 1024
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
    pieces = source.pieces()
    beginning = next((piece for piece in pieces if piece.removeprefix(_MARK).strip()), b"")
    rest = itertools.chain([beginning], pieces)
    if not beginning.removeprefix(_MARK).lstrip().startswith(b"["):
        yield from json_lines_of(Input(source.name, lambda: _Joined(rest)), reading)  # type: ignore[arg-type]
        return
    raw = bytearray()
    for piece in rest:
        raw += piece
        if len(raw) > JSON_BYTES:
            raise RequestError(
                f"{source.name} is larger than {JSON_BYTES >> 20} MiB (the limit JSON_BYTES): make it .jsonl"
            )
    for number, record in enumerate(parse_record(source.name, 1, bytes(raw)), 1):
        yield f"record {number:,} of {source.name}", record


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


def parquet_records_of(source: Input, reading: ReadOptions) -> Records:
    """(place, record) of each row of a parquet file, of the columns text and tokens."""
    import pyarrow
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(source.path or source.open()) as file:
            names = [name for name in file.schema_arrow.names if name in ("text", "tokens", "nfe", "draws")]
            for batch in file.iter_batches(_ROWS, columns=names):
                for record in batch.to_pylist():
                    yield f"a row of {source.name}", record
    except RequestError:
        raise
    except (pyarrow.ArrowException, OSError, ValueError, KeyError, TypeError) as error:
        raise DamageError(f"{source.name} is no parquet file, or a damaged one: {first_line(error)}") from None


def parse_record(source: str, number: int, line: bytes, offset: int = 0) -> Any:
    """The JSON value of a line; RequestError names the line, and the byte where it is no UTF-8."""
    try:
        return strict_json(line.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise RequestError(
            f"line {number:,} of {source} is not UTF-8, as JSON has to be: "
            f"byte {offset + error.start:,} does not decode"
        ) from error
    except EqualKeysError as error:
        raise RequestError(f"line {number:,} of {source} is ambiguous: {error}") from None
    except (ValueError, RecursionError) as error:
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else first_line(error)
        raise RequestError(f"line {number:,} of {source} is not JSON: {reason}") from None


def text_of(record: Any, field: str, where: str) -> str:
    """The text field of a record; RequestError where it has none."""
    if not isinstance(record, dict):
        raise RequestError(f"{where} is no JSON object but a {type(record).__name__}")
    if field not in record:
        raise RequestError(no_such_field(field, record, where))
    text = record[field]
    if not isinstance(text, str):
        raise RequestError(f"field {field!r} in {where} is no text but a {type(text).__name__}")
    return encodable(text)


def no_such_field(field: str, found: Iterable[str], where: str) -> str:
    """The message for a field that is not there."""
    return f"there is no field {field!r} in {where}; found: {listed(found) or 'none'}; choose one with --field"


def encodable(text: str) -> str:
    """`text` with lone surrogates, which JSON can spell and UTF-8 cannot, replaced by U+FFFD."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def read_parquet(source: Path | Input, reading: ReadOptions) -> Iterator[str]:
    """The text column, a thousand rows at a time."""
    import pyarrow
    from pyarrow import parquet

    source = source if isinstance(source, Input) else Input.of(source)
    field = reading.field or DEFAULT_FIELD
    try:
        at: Any = source.path or source.open()
        size = source.path.stat().st_size if source.path else at.seek(0, 2)
        budget = source.budget or Budget(source.name, size)
        with parquet.ParquetFile(at) as file:
            if field not in file.schema_arrow.names:
                raise RequestError(no_such_field(field, file.schema_arrow.names, source.name))
        # equal texts, which parquet stores once, are not multiplied in memory
        with parquet.ParquetFile(at, read_dictionary=[field]) as file:
            for batch in file.iter_batches(_ROWS, columns=[field]):
                for text in texts_of(batch.column(0), field, source.name):
                    budget.spend(len(text) + 1)
                    yield text
    except RequestError:
        raise
    except (pyarrow.ArrowException, OSError, ValueError, KeyError, TypeError, OverflowError) as error:
        raise DamageError(f"{source.name} is no parquet file, or a damaged one: {first_line(error)}") from None


def texts_of(column: Any, field: str, where: str) -> Iterator[str]:
    """The texts of an Arrow column; RequestError for any other value, also for bytes that are no UTF-8."""
    for value in column:
        try:
            text = value.as_py()
        except UnicodeDecodeError as error:
            raise RequestError(
                f"field {field!r} in {where} is not UTF-8 in some row: byte {error.start:,} does not decode"
            ) from None
        if not isinstance(text, str):
            kind = "empty" if text is None else f"no text but a {type(text).__name__}"
            raise RequestError(f"field {field!r} in {where} is {kind} in some row")
        yield text


def check_sample(record: Any, where: str) -> dict[str, Any]:
    """A record of samples: a "text", or "tokens" of 63 bits, or both; RequestError for anything else."""
    text, tokens = (record.get(key) if isinstance(record, dict) else None for key in ("text", "tokens"))
    numbers = isinstance(tokens, list) and all(type(i) is int and 0 <= i < 2**63 for i in tokens)
    if not isinstance(text, str) and not numbers:
        raise RequestError(f'{where} has neither a "text" nor a list of "tokens"')
    if tokens is not None and not numbers:
        raise RequestError(f'{where}: "tokens" is no list of token ids, found {displayed(tokens)}')
    if not isinstance(record.get("draws"), str | None):
        raise RequestError(f'{where}: "draws" is no text, found {displayed(record["draws"])}')
    return {**record, "text": encodable(text)} if isinstance(text, str) else record
