"""Write files atomically: a reader finds the old file or the new one, never a part."""

from __future__ import annotations

import errno
import io
import os
import re
import secrets
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, BinaryIO, Literal, TextIO

import numpy as np


def sync(stream: IO[Any]) -> None:
    """Flush a file to the disk and close it."""
    stream.flush()
    os.fsync(stream.fileno())
    stream.close()


def sync_path(path: Path) -> None:
    """Flush a closed file, or the entries of a folder, to the disk."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def is_stream(path: Path) -> bool:
    """Whether a path is a device, a pipe or an open descriptor (/dev/stdout), which cannot be replaced."""
    if _is_descriptor(path):
        return True
    try:
        mode = path.stat().st_mode
    except OSError:
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


def _is_descriptor(path: Path) -> bool:
    """Whether a path names an open file of a process, such as /dev/stdout, whatever kind of file it is."""
    name = os.path.abspath(path)
    return bool(re.fullmatch(r"/dev/(stdin|stdout|stderr|fd/\d+)|/proc/(self|\d+)/fd/\d+", name)) and path.exists()


def open_stream(path: Path) -> BinaryIO:
    """Open a device, a pipe or a descriptor for writing. What a shell has redirected to a file is appended to."""
    return path.open("ab" if _is_descriptor(path) else "wb")


def open_output(path: Path, mode: Literal["w", "a"]) -> TextIO:
    """Open a text file, a device, a pipe or a descriptor for writing; mode "w" empties a file, "a" does not."""
    return path.open("a" if _is_descriptor(path) else mode, encoding="utf-8")


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Yield the path of a new file beside `path`, which replaces `path` when the block ends without an error.

    Links are followed, and the permissions of an old file are kept.
    """
    path = path.resolve()
    beside, fd = _new_file(path)
    try:
        mode = stat.S_IMODE(path.stat().st_mode) if path.exists() else stat.S_IMODE(os.fstat(fd).st_mode)
        os.close(fd)
        yield beside
        with suppress(OSError):  # the old file belongs to another user
            beside.chmod(mode)
        sync_path(beside)
        try:
            os.replace(beside, path)
        except OSError as error:
            if error.errno != errno.EBUSY:
                raise
            shutil.copyfile(beside, path)  # a file that is a mount point cannot be replaced
            beside.unlink()
    except BaseException:
        with suppress(OSError):
            beside.unlink()
        raise


def _new_file(path: Path) -> tuple[Path, int]:
    while True:
        name = path.name.encode("utf-8", "surrogateescape")[:200].decode("utf-8", "ignore")  # names end at 255 bytes
        beside = path.with_name(f".{name}.{secrets.token_hex(4)}.partial")
        with suppress(FileExistsError):
            return beside, os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)


def write_whole(path: Path, content: str | bytes) -> None:
    """Write a file atomically; a device or a pipe is written directly."""
    raw = content.encode("utf-8") if isinstance(content, str) else content
    if is_stream(path):
        with open_stream(path) as stream:
            stream.write(raw)
        return
    with whole_file(path) as beside:
        beside.write_bytes(raw)


def save_array(path: Path, values: np.ndarray) -> None:
    """Write an .npy file atomically, and make its folder; several processes may do so at once."""
    path.parent.mkdir(parents=True, exist_ok=True)
    buffer = io.BytesIO()
    np.save(buffer, values)
    write_whole(path, buffer.getvalue())
