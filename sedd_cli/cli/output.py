"""Files that a command is asked to write: whether it can is said before the work, not after."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from sedd_cli.errors import RequestError


def check_apart(**paths: Path | str | None) -> None:
    """RequestError where two of the named files, the ones to be read among them, are one and the same."""
    seen: dict[Path, str] = {}
    for name, path in paths.items():
        if path is None or path == "-":
            continue
        option, place = f"--{name}", Path(path).resolve()
        if place in seen:
            raise RequestError(f"{seen[place]} and {option} are the same file, {path}")
        seen[place] = option


def check_writable(out: Path) -> None:
    """RequestError unless a file can be written there."""
    if not out.parent.is_dir():
        raise RequestError(f"cannot write {out}: the folder {out.parent} does not exist")
    if out.is_dir():
        raise RequestError(f"cannot write {out}: it is a folder")
    try:
        tempfile.TemporaryFile(dir=out.parent).close()
    except OSError as error:
        raise RequestError(f"cannot write {out}: {error.strerror}") from None
    if out.exists() and not os.access(out, os.W_OK):
        raise RequestError(f"cannot write {out}: permission denied")
