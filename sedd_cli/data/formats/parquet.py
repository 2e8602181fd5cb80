"""Parquet files: the column of the text, or records of samples."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from sedd_cli.data.formats.files import Budget, Input, ReadOptions, counted_pieces, spooled
from sedd_cli.data.formats.records import DEFAULT_FIELD, Records, no_such_field, refuse_repeated_columns
from sedd_cli.errors import DamageError, RequestError, first_line

_ROWS = 1024
#: What a row counts as unpacked, beside its text: millions of empty ones take no bytes of a file, but time.
_ROW_BYTES = 16
_TEXT = ("string", "large_string", "string_view")
_NESTED = ("list", "large_list", "fixed_size_list", "list_view", "large_list_view", "struct", "map")


def parquet_records_of(source: Input, reading: ReadOptions) -> Records:
    """(place, record) of each row of a parquet file, of the columns text and tokens."""
    import pyarrow
    from pyarrow import parquet

    try:
        at: Any = source.path or spooled(counted_pieces(source.open(), source.budget))
        size = source.path.stat().st_size if source.path else at.seek(0, 2)
        budget = source.budget or Budget(source.name, size)
        with parquet.ParquetFile(at) as file:
            names = [name for name in file.schema_arrow.names if name in ("text", "tokens", "nfe", "draws")]
            kinds = {name: file.schema_arrow.field(name).type for name in names}
            if not _holds_ids(tokens := kinds.get("tokens", pyarrow.null())):
                raise RequestError(f'"tokens" of {source.name} are no lists of token ids but {tokens}')
            names = [name for name in names if name == "tokens" or not pyarrow.types.is_nested(kinds[name])]
            _check_declared(file.metadata, names, budget)
        # equal texts, which parquet stores once, are not multiplied in memory
        repeated = [name for name in names if str(kinds[name]) in (*_TEXT, "binary", "large_binary")]
        with parquet.ParquetFile(at, read_dictionary=repeated) as file:
            for batch in file.iter_batches(_ROWS, columns=names):
                for row in range(batch.num_rows):
                    record = {name: batch.column(name)[row].as_py() for name in batch.schema.names}
                    budget.spend(sum(len(value) for value in record.values() if isinstance(value, str | bytes)))
                    yield f"a row of {source.name}", record
    except RequestError:
        raise
    except (pyarrow.ArrowException, OSError, ValueError, KeyError, TypeError, OverflowError) as error:
        raise DamageError(f"{source.name} is no parquet file, or a damaged one: {first_line(error)}") from None


def _holds_ids(kind: Any) -> bool:
    """Whether a type is that of lists of whole numbers, or of nothing at all."""
    from pyarrow import types

    lists = (types.is_list, types.is_large_list, types.is_fixed_size_list)
    return types.is_null(kind) or (any(one(kind) for one in lists) and types.is_integer(kind.value_type))


def _check_declared(metadata: Any, names: Collection[str], budget: Budget) -> None:
    """RequestError where columns declare more bytes, or more values, than the budget has left; nothing is read."""
    groups = (metadata.row_group(group) for group in range(metadata.num_row_groups))
    columns = [group.column(i) for group in groups for i in range(group.num_columns)]
    own = [column for column in columns if column.path_in_schema.partition(".")[0] in names]
    declared = max(
        sum(column.total_uncompressed_size for column in own), _ROW_BYTES * sum(column.num_values for column in own)
    )
    if declared > budget.left:
        budget.spend(declared)


def read_parquet(source: Path | Input, reading: ReadOptions) -> Iterator[str]:
    """The text column, a thousand rows at a time."""
    import pyarrow
    from pyarrow import parquet

    source = source if isinstance(source, Input) else Input.of(source)
    field = reading.field or DEFAULT_FIELD
    try:
        at: Any = source.path or spooled(counted_pieces(source.open(), source.budget))
        size = source.path.stat().st_size if source.path else at.seek(0, 2)
        budget = source.budget or Budget(source.name, size)
        with parquet.ParquetFile(at) as file:
            names = file.schema_arrow.names
            if field not in names:
                raise RequestError(no_such_field(field, names, source.name))
            refuse_repeated_columns(names, field, source, reading.tally)
            _check_type(file.schema_arrow.field(field).type, field, source.name)
            _check_declared(file.metadata, [field], budget)
        # equal texts, which parquet stores once, are not multiplied in memory
        with parquet.ParquetFile(at, read_dictionary=[field]) as file:
            for batch in file.iter_batches(_ROWS, columns=[field]):
                for text in texts_of(batch.column(0), field, source.name):
                    budget.spend(len(text) + _ROW_BYTES)
                    yield text
    except RequestError:
        raise
    except (pyarrow.ArrowException, OSError, ValueError, KeyError, TypeError, OverflowError) as error:
        raise DamageError(f"{source.name} is no parquet file, or a damaged one: {first_line(error)}") from None


def texts_of(column: Any, field: str, where: str) -> Iterator[str]:
    """The texts of an Arrow column; RequestError for any other value, also for bytes that are no UTF-8."""
    _check_type(column.type, field, where)
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


def _check_type(kind: Any, field: str, where: str) -> None:
    """RequestError for a column of another type than text."""
    found = str(getattr(kind, "value_type", kind)) if str(kind).startswith("dictionary<") else str(kind)
    if found not in _TEXT:
        name = found.partition("<")[0]
        what = f"a {name.split('_')[-1] if 'list' in name else name}" if name in _NESTED else f"values of type {found}"
        raise RequestError(f"column {field!r} of {where} holds no text but {what}; choose another with --field")
