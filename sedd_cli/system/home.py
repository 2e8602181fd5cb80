"""The folder of prepared data and caches."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from sedd_cli.errors import RequestError


def home() -> Path:
    """$SEDD_HOME, else the platform's user cache folder; RequestError where there is no home folder."""
    chosen = os.environ.get("SEDD_HOME")
    if not chosen:
        import platformdirs

        with suppress(RuntimeError):  # newer versions refuse by themselves
            chosen = platformdirs.user_cache_dir("sedd")
    chosen = chosen or "~/.cache/sedd"
    found = os.path.expanduser(chosen)
    if found.startswith("~"):  # neither $HOME nor an entry of this user in the system's list
        raise RequestError(f"{chosen}: this user has no home folder; set SEDD_HOME to a folder for data and caches")
    return Path(found)


def nearest_existing(path: Path) -> Path:
    """The path itself, or the first folder above it that exists."""
    return next(p for p in (path, *path.parents) if p.exists())
