"""Local files: finding them, the splits their names name, and their identity."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from sedd_cli.errors import RequestError
from sedd_cli.system.digests import digest, sha256_of

_HASHED = 1 << 26
_WORDS = {
    "train": {"train", "training"},
    "validation": {"valid", "validation", "val", "dev", "heldout"},
    "test": {"test"},
}


def files_under(path: Path, accepted: Callable[[Path], bool]) -> list[Path]:
    """`path` itself, or the accepted files below it in path order, without hidden ones.

    Raises RequestError where there is nothing.
    """
    if path.is_file():
        return [path]
    if not path.exists():
        raise RequestError(f"{path}: no such file or folder")
    below = (file for file in path.rglob("*") if file.is_file() and accepted(file))
    found = [file for file in below if not any(part.startswith(".") for part in file.relative_to(path).parts)]
    return sorted(found, key=lambda file: file.relative_to(path).as_posix())


def named_split(name: str) -> str | None:
    """The split in a file's name ("wiki.test.raw" → "test"), or None."""
    words = set(re.split(r"[^a-z]+", name.lower()))
    return next((split for split, known in _WORDS.items() if words & known), None)


def identity_of(root: Path, files: list[Path]) -> str:
    """A digest that changes when the files do, independent of their folder.

    Small files are identified by content, those above 64 MiB by size and modification time, since hashing OpenWebText
    at every start would take minutes.
    """
    base = root if root.is_dir() else root.parent
    return digest([[file.relative_to(base).as_posix(), _stamp(file)] for file in files])


def _stamp(file: Path) -> str:
    stat = file.stat()
    return sha256_of(file) if stat.st_size <= _HASHED else f"{stat.st_size} {stat.st_mtime_ns}"
