"""Files that are either whole or not there."""

from __future__ import annotations

import os
from pathlib import Path


def sync(stream) -> None:
    """Bring a file to the disk and close it."""
    stream.flush()
    os.fsync(stream.fileno())
    stream.close()


def write_whole(path: Path, text: str) -> None:
    """Write a text file so that a reader finds the old one or the new one, never a part."""
    beside = path.with_name(path.name + ".new")
    with beside.open("w", encoding="utf-8") as stream:
        stream.write(text)
        sync(stream)
    os.replace(beside, path)
