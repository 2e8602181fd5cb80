"""The software that a result was computed with, and what installed packages offer."""

from __future__ import annotations

import importlib.metadata
from functools import cache
from importlib.metadata import EntryPoint, entry_points

from sedd_cli import __version__

#: The group of parts: `[project.entry-points."sedd.parts"]` in a pyproject.toml, with lines NAME = "package.module".
GROUP = "sedd.parts"


def software(*libraries: str) -> dict[str, str]:
    """The versions of this package and of some libraries."""
    return {"sedd": __version__, **{name: importlib.metadata.version(name) for name in libraries}}


@cache
def offered() -> tuple[EntryPoint, ...]:
    """The entry points by which installed packages offer parts; reading them imports none of these packages."""
    return tuple(entry_points(group=GROUP))
