"""Check the outputs of a command before its work: it must not overwrite its inputs or files of others.

An output replaces a regular file, follows a link, and is written into a device or a pipe. A folder is used if
it is new, empty, or was made by the same command.
"""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from sedd_cli.errors import RequestError, shortened, unwritable
from sedd_cli.system.files import is_left, is_stream, require_utf8
from sedd_cli.system.home import home

#: Options that name models and runs: of a run only READ_OF_A_RUN is read, of other folders every file.
MODELS = ("--model", "--judge", "--runs", "RUN")
#: Folders of $SEDD_HOME.
KEPT_IN_HOME = ("data", "downloads", "evaluations", "features", "mauve")
#: The entries of a run directory that commands read.
READ_OF_A_RUN = ("recipe.yaml", "latest", "metrics.jsonl", "ema.safetensors", "checkpoints", "table")
Named = str | Path | None


def check_outputs(writes: Mapping[str, Path | None], reads: Mapping[str, Named | Iterable[Named]]) -> None:
    """Check that all outputs can be written, differ from each other and are not inputs.

    Args:
        writes: Option → output file.
        reads: Option → inputs in any form that options take. NAME=PATH counts as PATH; None, "-" and names that are
            not paths are ignored. A folder stands for all files in it.

    Raises:
        RequestError: Names the options and the file.
        WorkError: The disk is full.
    """
    taken: dict[Path, str] = {}
    inputs = [(option, path) for option, named in reads.items() for path in _paths(named)]
    inputs += [("$SEDD_HOME", home() / name) for name in KEPT_IN_HOME if (home() / name).is_dir()]
    for option, out in writes.items():
        if out is None:
            continue
        _check_name(option, out)
        place = _place(out)
        _check_file(out, place)
        if place in taken:
            raise RequestError(f"{taken[place]} and {option} are the same file, {out}")
        taken[place] = option
        if is_stream(out):
            continue
        for reader, path in inputs:
            if _is_read(place, path, run=reader in MODELS):
                if path.is_file():
                    raise RequestError(f"{reader} and {option} are the same file, {out}")
                raise RequestError(f"{option} {out} would replace a file of {path}, which is read ({reader})")


def check_folder(option: str, folder: Path, own: Callable[[Path], bool], what: str) -> None:
    """Raise RequestError unless a folder is new, empty, or `own(folder)` holds.

    what: the kind of folder that the command makes, as in "a run".
    """
    _check_name(option, folder)
    require_utf8(folder, option)
    place = _place(folder)
    if place.parent.name == "checkpoints" and (place.parent.parent / "recipe.yaml").is_file():
        raise RequestError(f"cannot write to {folder}: {place.parent} holds the checkpoints of a run")
    if not place.exists():
        return
    if not place.is_dir():
        raise RequestError(f"cannot write to {folder}: it is not a folder")
    try:
        there = sorted(path.name for path in place.iterdir() if path.name != ".lock" and not is_left(path.name))
    except OSError as error:
        raise RequestError(f"cannot write to {folder}: {error.strerror}") from None
    if there and not own(place):
        raise RequestError(
            f"{folder} holds files and is not {what} ({', '.join(there[:3])}{', …' if len(there) > 3 else ''}): "
            f"name a new or empty folder with {option}"
        )


#: Most bytes of the names that are made beside an output beyond its own: of its lock, which is `.NAME.lock`.
ADDED = len("..lock")


def _check_name(option: str, out: Path) -> None:
    """RequestError for a name that is too long for the file, or for the lock beside it."""
    try:
        most = os.pathconf(out.parent, "PC_NAME_MAX") - ADDED
    except (OSError, ValueError, AttributeError):  # the folder is missing (refused elsewhere), or this is Windows
        most = 255 - ADDED
    if (size := len(os.fsencode(out.name))) > most:
        raise RequestError(f"{option}: the name {shortened(out.name)} has {size:,} bytes, at most {most} are possible")


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
        raise unwritable(out, error) from None
    if place.exists() and not os.access(place, os.W_OK):
        raise RequestError(f"cannot write {out}: permission denied")


def _place(path: Path) -> Path:
    """The path with links resolved."""
    try:
        return path.resolve()
    except (OSError, RuntimeError) as error:  # for a loop of links, depending on the version of Python
        raise RequestError(f"cannot write {path}: {getattr(error, 'strerror', None) or error}") from None


def _paths(named: Named | Iterable[Named]) -> list[Path]:
    """The existing paths among the values of an option."""
    values = [named] if named is None or isinstance(named, str | Path) else list(named)
    texts = [str(value) for value in values if value is not None]
    texts += [text.partition("=")[2] for text in texts if "=" in text]
    found = []
    for text in texts:
        try:
            path = Path(text).expanduser()
            if text and path.exists() and (path.is_file() or path.is_dir()):
                found.append(path)
        except (OSError, RuntimeError, ValueError):  # not a path: too long, an unknown user, a NUL
            continue
    return found


def _is_read(place: Path, path: Path, run: bool = False) -> bool:
    """Whether an output at `place` exists and is the input `path`, or a file in it."""
    if not place.exists():
        return False
    if path.is_file():
        return _same(place, path)
    folder = path.resolve()
    if run and (folder / "latest").is_file() and (folder / "checkpoints").is_dir():
        return any(_is_read(place, folder / name) for name in READ_OF_A_RUN if (folder / name).exists())
    return folder in place.parents or _linked_in(place, folder)


def _linked_in(place: Path, folder: Path) -> bool:
    """Whether a file of the folder is a link to `place`, symbolic or hard."""
    if place.stat().st_nlink == 1 and not any(path.is_symlink() for path in folder.rglob("*")):
        return False
    return any(_same(place, path) for path in folder.rglob("*") if path.is_file())


def _same(place: Path, path: Path) -> bool:
    return path.exists() and place.exists() and os.path.samefile(place, path)
