"""The entry points by which installed packages offer parts; reading them imports none of these packages."""

from __future__ import annotations

from functools import cache
from importlib.metadata import EntryPoint, entry_points

#: The group: `[project.entry-points."sedd.parts"]` in a pyproject.toml, with lines of the form NAME = "package.module".
GROUP = "sedd.parts"


@cache
def offered() -> tuple[EntryPoint, ...]:
    """The entry points of the group."""
    return tuple(entry_points(group=GROUP))
