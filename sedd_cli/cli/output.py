"""Files that a command is asked to write: whether it can is said before the work, not after."""

from __future__ import annotations

import os
from pathlib import Path

from sedd_cli.errors import RequestError


def check_writable(out: Path) -> None:
    """RequestError unless a file can be written there."""
    if not out.parent.is_dir():
        raise RequestError(f"cannot write {out}: the folder {out.parent} does not exist")
    if out.is_dir():
        raise RequestError(f"cannot write {out}: it is a folder")
    if not os.access(out if out.exists() else out.parent, os.W_OK):
        raise RequestError(f"cannot write {out}: permission denied")
