"""Files that are either whole or not there."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

import numpy as np


def sync(stream) -> None:
    """Bring a file to the disk and close it."""
    stream.flush()
    os.fsync(stream.fileno())
    stream.close()


def sync_path(path: Path) -> None:
    """Bring a file that is closed, or a folder's list of names, to the disk."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def write_whole(path: Path, text: str) -> None:
    """Write a text file so that a reader finds the old one or the new one, never a part."""
    beside = path.with_name(path.name + ".new")
    with beside.open("w", encoding="utf-8") as stream:
        stream.write(text)
        sync(stream)
    os.replace(beside, path)


def save_array(path: Path, values: np.ndarray) -> None:
    """Write an .npy file, its folder too; several processes may do so at once. OSError leaves nothing behind."""
    beside = path.with_name(f"{path.name}.{os.getpid()}.new")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with beside.open("wb") as stream:
            np.save(stream, values)
            sync(stream)
        os.replace(beside, path)
    except OSError:
        with suppress(OSError):
            beside.unlink()
        raise
