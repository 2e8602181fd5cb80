"""Local files: finding them, the splits their names name, and their identity."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import TypeVar

from sedd_cli.data.formats.choice import Choice, choose, is_hidden
from sedd_cli.errors import RequestError
from sedd_cli.system.digests import digest, sha256_of

P = TypeVar("P", bound=PurePath)
_HASHED = 1 << 26
_WORDS = {
    "train": {"train", "training"},
    "validation": {"valid", "validation", "val", "dev", "heldout"},
    "test": {"test"},
}


@dataclass(frozen=True)
class Found:
    """The files of a folder that are read, in path order, and how many of which kind are not; or a single file."""

    files: list[Path]
    choice: Choice | None = None


def files_under(path: Path, accepted: Callable[[Path], bool]) -> list[Path]:
    """`path` itself, or the accepted files below it in path order, without hidden ones.

    Raises RequestError where there is nothing.
    """
    return find_files(path, accepted).files


def find_files(path: Path, accepted: Callable[[Path], bool]) -> Found:
    """`path` itself, or what the folder gives, chosen by the rules of `formats.choice`. Links are followed.

    Raises RequestError where there is nothing, and for a folder or a link that cannot be read.
    """
    if path.is_file():
        return Found([path])
    if not path.exists():
        raise RequestError(f"{path}: no such file or folder")
    names: dict[str, Path] = {}
    other: dict[str, str] = {}
    for file in _below(path, set()):
        name = file.relative_to(path).as_posix()
        names[name] = file
        if not file.is_file():
            other[name] = "links to nothing" if file.is_symlink() and not file.exists() else "devices or pipes"
            if not file.exists() and accepted(file) and not file.name.startswith("."):
                raise RequestError(f"{file} is a link to nothing: fetch what it should point to, or remove it")
    choice = choose(names, lambda name: accepted(names[name]), other)
    return Found([names[name] for name in choice.names], choice)


def _below(folder: Path, above: set[tuple[int, int]]) -> Iterator[Path]:
    """All that a folder holds, through links; a hidden folder and one inside itself are not entered."""
    try:
        stat = folder.stat()
        key = stat.st_dev, stat.st_ino
        if key in above:
            return
        entries = sorted(folder.iterdir())
    except OSError as error:
        raise RequestError(f"cannot read the folder {folder}: {error.strerror}") from None
    for entry in entries:
        if entry.is_dir() and not is_hidden(entry.name):
            yield from _below(entry, above | {key})
        else:
            yield entry


def named_split(name: str) -> str | None:
    """The split in a file's name ("wiki.test.raw" → "test"), or None."""
    words = set(re.split(r"[^a-z]+", name.lower()))
    return next((split for split, known in _WORDS.items() if words & known), None)


def file_splits(files: Sequence[P]) -> dict[P, str | None]:
    """The split that each file of a user is named for.

    A name is a file's own claim where one of its parts between dots is a split's name (`my.test.txt`, `test.txt`,
    `test-00000-of-00001.parquet`), or where one file is given alone. A word elsewhere in a name (`the driving
    test.txt`) counts only where another file is named for training.
    """
    words = {file: named_split(file.name) for file in files}
    if "train" in words.values() or (len(files) == 1 and " " not in files[0].stem):
        return words
    return {file: split if split and _claims(file.name) else None for file, split in words.items()}


def _claims(name: str) -> bool:
    known = set().union(*_WORDS.values())
    parts = re.sub(r"[-_]\d+([-_]of[-_]\d+)?(?=\.|$)", "", name.lower()).split(".")
    return bool(known & set(parts))


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
