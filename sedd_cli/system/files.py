"""Write files atomically: a reader finds the old file or the new one, never a part."""

from __future__ import annotations

import io
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

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
    if str(path.absolute()).startswith(("/dev/", "/proc/")) and path.exists():
        return True
    try:
        mode = path.stat().st_mode
    except OSError:
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Yield the path of a new file beside `path`, which replaces `path` when the block ends without an error.

    Links are followed, and the permissions of an old file are kept.
    """
    path = path.resolve()
    beside, fd = _new_file(path)
    try:
        with suppress(OSError):  # there is no old file, or it belongs to another user
            os.fchmod(fd, stat.S_IMODE(path.stat().st_mode))
        os.close(fd)
        yield beside
        sync_path(beside)
        os.replace(beside, path)
    except BaseException:
        with suppress(OSError):
            beside.unlink()
        raise


def _new_file(path: Path) -> tuple[Path, int]:
    while True:
        beside = path.with_name(f".{path.name[:200]}.{secrets.token_hex(4)}.partial")
        with suppress(FileExistsError):
            return beside, os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)


def write_whole(path: Path, content: str | bytes) -> None:
    """Write a file atomically; a device or a pipe is written directly."""
    raw = content.encode("utf-8") if isinstance(content, str) else content
    if is_stream(path):
        with path.open("wb") as stream:
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
