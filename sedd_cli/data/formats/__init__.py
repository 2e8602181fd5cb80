"""ReadOptions documents out of files: one module per kind of file, one table of suffixes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from sedd_cli.data.formats.archives import read_tar
from sedd_cli.data.formats.plain import ReadOptions, read_lines, read_text
from sedd_cli.data.formats.records import read_jsonl, read_parquet

__all__ = ["PLAIN", "READERS", "ReadOptions", "Reader", "read_documents", "read_lines"]

Reader = Callable[[Path, ReadOptions], Iterator[str]]

PLAIN: dict[str, Reader] = dict.fromkeys((".txt", ".text", ".raw", ".md", ".tokens"), read_text)
READERS: dict[str, Reader] = {
    **PLAIN,
    ".jsonl": read_jsonl,
    ".ndjson": read_jsonl,
    ".parquet": read_parquet,
    ".tar": read_tar,
    ".tgz": read_tar,
    ".xz": read_tar,
    ".gz": read_tar,
}


def read_documents(path: Path, reading: ReadOptions) -> Iterator[str]:
    """The documents of one file, by its suffix; a suffix that is not known is read as plain text."""
    return READERS.get(path.suffix.lower(), read_text)(path, reading)
