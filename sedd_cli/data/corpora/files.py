"""Files on this machine: finding them, telling their splits by their names, and knowing them again."""

from __future__ import annotations

import re
from pathlib import Path

from sedd_cli.errors import RequestError
from sedd_cli.system.digests import digest, sha256_of

_HASHED = 1 << 26
_WORDS = {
    "train": {"train", "training"},
    "validation": {"valid", "validation", "val", "dev", "heldout"},
    "test": {"test"},
}


def files_under(path: Path, accepted) -> list[Path]:
    """`path` itself, or the files below it that `accepted(path)` takes, in path order; hidden ones left out.

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
    """The split that a file's name speaks of ("wiki.test.raw" → "test"), None where it speaks of none."""
    words = set(re.split(r"[^a-z]+", name.lower()))
    return next((split for split, known in _WORDS.items() if words & known), None)


def identity_of(root: Path, files: list[Path]) -> str:
    """One short text that changes when the files do, wherever they stand.

    Small files are known by their content; those above 64 MiB by size and time of change, since hashing an
    OpenWebText at every start would take minutes.
    """
    base = root if root.is_dir() else root.parent
    return digest([[file.relative_to(base).as_posix(), _stamp(file)] for file in files])


def _stamp(file: Path) -> str:
    stat = file.stat()
    return sha256_of(file) if stat.st_size <= _HASHED else f"{stat.st_size} {stat.st_mtime_ns}"
