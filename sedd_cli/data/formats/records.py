"""Files of records, one field of which holds the text: JSON lines and parquet."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from sedd_cli.data.formats.plain import ReadOptions
from sedd_cli.errors import DamageError, RequestError, first_line

DEFAULT_FIELD = "text"
_ROWS = 1024


def read_jsonl(path: Path, reading: ReadOptions) -> Iterator[str]:
    """The text field of each line; empty lines are passed over. Errors name the line."""
    field = reading.field or DEFAULT_FIELD
    return (_text_of(record, field, f"line {number:,} of {path}") for number, record in _records(path))


def read_samples(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Number and record of each line of a .jsonl file that holds samples: a "text", or "tokens", or both."""
    for number, record in _records(path):
        text, tokens = (record.get(key) if isinstance(record, dict) else None for key in ("text", "tokens"))
        if not (isinstance(text, str) or (isinstance(tokens, list) and all(type(i) is int for i in tokens))):
            raise RequestError(f'line {number:,} of {path} has neither a "text" nor a list of "tokens"')
        yield number, record


def _records(path: Path) -> Iterator[tuple[int, Any]]:
    offset = 0
    with path.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            if line.strip():
                yield number, parse_record(str(path), number, line, offset)
            offset += len(line)


def parse_record(source: str, number: int, line: bytes, offset: int = 0) -> Any:
    """The JSON value of a line; RequestError names the line, and the byte where it is no UTF-8."""
    try:
        return json.loads(line.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise RequestError(
            f"line {number:,} of {source} is not UTF-8, as JSON has to be: "
            f"byte {offset + error.start:,} does not decode"
        ) from error
    except (ValueError, RecursionError) as error:
        raise RequestError(f"line {number:,} of {source} is not JSON: {error}") from error


def _text_of(record: Any, field: str, where: str) -> str:
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
    return f"there is no field {field!r} in {where}; found: {', '.join(found) or 'none'}; choose one with --field"


def encodable(text: str) -> str:
    """`text` with lone surrogates, which JSON can spell and UTF-8 cannot, replaced by U+FFFD."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def read_parquet(path: Path, reading: ReadOptions) -> Iterator[str]:
    """The text column, a thousand rows at a time."""
    import pyarrow
    from pyarrow import parquet

    field = reading.field or DEFAULT_FIELD
    try:
        with parquet.ParquetFile(path) as file:
            if field not in file.schema_arrow.names:
                raise RequestError(no_such_field(field, file.schema_arrow.names, str(path)))
            for batch in file.iter_batches(_ROWS, columns=[field]):
                yield from texts_of(batch.column(0), field, str(path))
    except (pyarrow.ArrowException, OSError) as error:
        raise DamageError(f"{path} is no parquet file, or a damaged one: {first_line(error)}") from error


def texts_of(column, field: str, where: str) -> Iterator[str]:
    """The texts of an Arrow column; RequestError where it holds anything else."""
    for text in column.to_pylist():
        if not isinstance(text, str):
            kind = "empty" if text is None else f"no text but a {type(text).__name__}"
            raise RequestError(f"field {field!r} in {where} is {kind} in some row")
        yield text
