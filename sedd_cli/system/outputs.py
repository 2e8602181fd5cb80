"""What a command may write is decided here, before its work: nothing that it reads, and nobody else's files.

A plain file is replaced, whole or not at all; a link is followed; a device or a pipe is written into. A folder is
filled where it is new, empty, or already the command's own.
"""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from sedd_cli.errors import RequestError
from sedd_cli.system.files import is_stream
from sedd_cli.system.home import home

#: What a run directory is read for; its other files (results, samples, a user's own) are not.
READ_OF_A_RUN = ("recipe.yaml", "latest", "metrics.jsonl", "ema.safetensors", "checkpoints", "table")
Named = str | Path | None


def check_outputs(writes: Mapping[str, Path | None], reads: Mapping[str, Named | Iterable[Named]]) -> None:
    """RequestError unless every file can be written, and none is another one or among those that are read.

    writes: option → file. reads: option → paths, in any of the forms that options take: names that are no paths, None
    and "-" are passed over, of NAME=PATH the path counts. A folder that is read stands for all files there are in it.
    """
    taken: dict[Path, str] = {}
    inputs = [(option, path) for option, named in reads.items() for path in _paths(named)]
    inputs.append(("$SEDD_HOME", home()))
    for option, out in writes.items():
        if out is None:
            continue
        place = _place(out)
        _check_file(out, place)
        if is_stream(out):
            continue
        for reader, path in inputs:
            if _is_read(place, path):
                if path.is_file():
                    raise RequestError(f"{reader} and {option} are the same file, {out}")
                raise RequestError(f"{option} {out} would replace a file of {path}, which is read ({reader})")
        if place in taken:
            raise RequestError(f"{taken[place]} and {option} are the same file, {out}")
        taken[place] = option


def check_folder(option: str, folder: Path, own: Callable[[Path], bool], what: str) -> None:
    """RequestError unless a folder can be filled: it is new, empty, or `own` says that this command made it.

    what: the word for such a folder, as in "a run".
    """
    place = _place(folder)
    if not place.exists():
        return
    if not place.is_dir():
        raise RequestError(f"cannot write to {folder}: it is not a folder")
    try:
        there = sorted(path.name for path in place.iterdir() if path.name != ".lock")
    except OSError as error:
        raise RequestError(f"cannot write to {folder}: {error.strerror}") from None
    if there and not own(place):
        raise RequestError(
            f"{folder} holds files and is not {what} ({', '.join(there[:3])}{', …' if len(there) > 3 else ''}): "
            f"name a new or empty folder with {option}"
        )


def _check_file(out: Path, place: Path) -> None:
    if is_stream(out):
        mode = out.stat().st_mode
        if stat.S_ISBLK(mode) or stat.S_ISSOCK(mode):
            raise RequestError(f"cannot write {out}: it is a {'disk' if stat.S_ISBLK(mode) else 'socket'}")
        if not os.access(out, os.W_OK):
            raise RequestError(f"cannot write {out}: permission denied")
        return
    if not place.parent.is_dir():
        raise RequestError(f"cannot write {out}: the folder {place.parent} does not exist")
    if place.is_dir():
        raise RequestError(f"cannot write {out}: it is a folder")
    try:
        tempfile.TemporaryFile(dir=place.parent).close()
    except OSError as error:
        raise RequestError(f"cannot write {out}: {error.strerror}") from None
    if place.exists() and not os.access(place, os.W_OK):
        raise RequestError(f"cannot write {out}: permission denied")


def _place(path: Path) -> Path:
    """Where a path leads, through links."""
    try:
        return path.resolve()
    except (OSError, RuntimeError) as error:  # a loop of links is the one or the other, by Python's version
        raise RequestError(f"cannot write {path}: {getattr(error, 'strerror', None) or error}") from None


def _paths(named: Named | Iterable[Named]) -> list[Path]:
    """The paths among what an option was given that exist."""
    values = [named] if named is None or isinstance(named, str | Path) else list(named)
    texts = [str(value) for value in values if value is not None]
    texts += [text.partition("=")[2] for text in texts if "=" in text]
    found = []
    for text in texts:
        try:
            path = Path(text).expanduser()
            if text and path.exists() and (path.is_file() or path.is_dir()):
                found.append(path)
        except (OSError, RuntimeError, ValueError):  # no path: too long, an unknown user, a NUL
            continue
    return found


def _is_read(place: Path, path: Path) -> bool:
    """Whether a file to be written, at `place`, is one that is there in `path`, or `path` itself."""
    if not place.exists():
        return False
    if path.is_file():
        return _same(place, path)
    folder = path.resolve()
    if (folder / "latest").is_file() and (folder / "checkpoints").is_dir():
        return any(_is_read(place, folder / name) for name in READ_OF_A_RUN if (folder / name).exists())
    return folder in place.parents or _linked_in(place, folder)


def _linked_in(place: Path, folder: Path) -> bool:
    """Whether a file of the folder leads to `place`: a link, or another name of the same file."""
    if place.stat().st_nlink == 1 and not any(path.is_symlink() for path in folder.rglob("*")):
        return False
    return any(_same(place, path) for path in folder.rglob("*") if path.is_file())


def _same(place: Path, path: Path) -> bool:
    return path.exists() and place.exists() and os.path.samefile(place, path)
