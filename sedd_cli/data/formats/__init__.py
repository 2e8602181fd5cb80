"""Reading documents from files: one table of endings and formats, which every command uses.

The ending of a file gives its format, of a compressed file the ending inside: `a.jsonl.gz` is JSON lines. Endings
that are not in the table are refused, unless a format is named.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from sedd_cli.data.formats import records
from sedd_cli.data.formats.archives import Archive, Readers, is_zip, read_as_stored
from sedd_cli.data.formats.files import COMPRESSED, LONGEST, Input, ReadOptions, kind_of_data
from sedd_cli.data.formats.parquet import parquet_records_of, read_parquet
from sedd_cli.data.formats.plain import read_lines, read_text
from sedd_cli.data.formats.records import check_sample, encodable
from sedd_cli.errors import RequestError, not_one_of
from sedd_cli.system.files import near

__all__ = [
    "ENDINGS", "FORMATS", "RECORDS", "ReadOptions", "finished", "format_of", "open_archive", "read_documents",
    "read_lines", "read_rows", "read_samples",
]  # fmt: skip

#: Formats of records: how each reads (place, record).
RECORDS: dict[str, Callable[[Input, ReadOptions], records.Records]] = {
    "jsonl": records.json_lines_of,
    "json": records.json_records_of,
    "csv": records.comma_records_of,
    "tsv": records.tab_records_of,
    "parquet": parquet_records_of,
}
#: All formats.
FORMATS = ("text", *RECORDS, "archive")
ENDINGS: dict[str, str] = {
    **dict.fromkeys((".txt", ".text", ".raw", ".md", ".tokens"), "text"),
    **{".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "json", ".csv": "csv", ".tsv": "tsv", ".parquet": "parquet"},
    **dict.fromkeys((".tar", ".tgz", ".zip"), "archive"),
}


def format_of(name: str) -> str | None:
    """The format of a file by its ending, of a compressed file by the ending inside; None for an unknown one."""
    path = Path(name.lower())
    if path.suffix not in COMPRESSED:
        return ENDINGS.get(path.suffix)
    # openwebtext's archives are called urlsf_subset00.xz
    inner = Path(path.stem).suffix
    found = ENDINGS.get(inner) if inner else "archive"
    return "archive" if found is None else None if found == "parquet" else found


def chosen_format(name: str, reading: ReadOptions) -> str:
    """The format that is named, else that of the ending; RequestError where neither is known."""
    if reading.format != "auto":
        if reading.format not in FORMATS:
            raise RequestError(not_one_of("format", ["auto", *FORMATS], reading.format))
        return reading.format
    if not Path(name).exists():
        raise RequestError(f"cannot read {name}: No such file or directory{near(Path(name))}")
    if (found := format_of(name)) is None:
        packed = _packed(Path(name)) if Path(name).is_file() else None
        advice = f"it holds {packed} data: unpack it" if packed else "name its format, as in --format text"
        raise RequestError(
            f"{name}: files of this ending are not read as text unasked; known are {', '.join(ENDINGS)} (also with "
            f"{', '.join(COMPRESSED)}); {advice}"
        )
    return found


def _packed(path: Path) -> str | None:
    """How a file is packed or encrypted; None where it is neither, or cannot be read."""
    try:
        with path.open("rb") as stream:
            return kind_of_data(stream.read(64))
    except OSError:
        return None


def read_documents(path: Path, reading: ReadOptions) -> Iterator[str]:
    """The documents of one file in its format, as `finished` leaves them."""
    chosen = chosen_format(str(path), reading)
    return finished(_read(Input.of(path), chosen, reading))


def read_rows(path: Path, reading: ReadOptions) -> Iterator[str]:
    """The texts of a file of records as they are, empty ones too."""
    return _read(Input.of(path), chosen_format(str(path), reading), reading)


def finished(texts: Iterator[str]) -> Iterator[str]:
    """Texts as documents: none blank, none longer than LONGEST, none that UTF-8 cannot hold."""
    for text in texts:
        for start in range(0, len(text), LONGEST):
            piece = text[start : start + LONGEST]
            if piece.strip():
                yield encodable(piece)


def _read(source: Input, chosen: str, reading: ReadOptions) -> Iterator[str]:
    if chosen == "text":
        return read_text(source, reading)
    if chosen == "archive":
        assert source.path is not None, "archives inside archives are read with the outer one"
        with source.path.open("rb") as stream:
            stored = reading.as_stored and not is_zip(stream)
        if stored:
            return read_as_stored(source.path, reading, READERS)
        return open_archive(source.path).all_documents(reading)
    if chosen == "parquet":
        return read_parquet(source, reading)
    return records.texts_in(RECORDS[chosen](source, reading), source, reading)


def open_archive(path: Path) -> Archive:
    """A file on disk as an archive, whose members are read by their endings."""
    return Archive.of(path, READERS)


def _member(name: str, source: Input, reading: ReadOptions) -> Iterator[str]:
    """The documents of a member of an archive, by the ending of its name."""
    chosen = format_of(name)
    assert chosen is not None, "members of unknown endings are left out"
    return _read(source.unpacked(Path(name).suffix.lower()), chosen, reading)


READERS = Readers(
    accepted=lambda name: format_of(name) is not None,
    is_archive=lambda name: format_of(name) == "archive",
    read=_member,
)


def read_samples(path: Path, asked: str = "auto") -> Iterator[tuple[str, dict[str, Any]]]:
    """(place, record) of each sample in a file: records with a "text", "tokens", or both, or a text a line."""
    reading = ReadOptions(documents="line", format=asked)
    chosen = chosen_format(str(path), reading)
    if chosen == "archive":
        raise RequestError(f"{path} is an archive: unpack it and name one of its files")
    if chosen == "text":
        for number, text in enumerate(read_text(path, reading), 1):
            yield f"text {number:,} of {path}", {"text": encodable(text)}
        return
    for where, record in RECORDS[chosen](Input.of(path), reading):
        yield where, check_sample(record, where)
