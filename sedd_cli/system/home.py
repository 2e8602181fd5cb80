"""The folder of prepared data and caches."""

from __future__ import annotations

import os
from pathlib import Path


def home() -> Path:
    """$SEDD_HOME, else the platform's user cache folder."""
    if chosen := os.environ.get("SEDD_HOME"):
        return Path(chosen).expanduser()
    import platformdirs

    return Path(platformdirs.user_cache_dir("sedd"))


def nearest_existing(path: Path) -> Path:
    """The path itself, or the first folder above it that exists."""
    return next(p for p in (path, *path.parents) if p.exists())
