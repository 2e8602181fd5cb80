"""The software that a result was computed with, and what installed packages offer."""

from __future__ import annotations

import importlib.metadata
import platform
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

from sedd_cli import __version__
from sedd_cli.errors import shell_command

PACKAGE = Path(__file__).parents[1]
#: The group of parts: `[project.entry-points."sedd.parts"]` in a pyproject.toml, with lines NAME = "package.module".
GROUP = "sedd.parts"


#: The function of Python that is being called.
_CALLED: ContextVar[str | None] = ContextVar("called", default=None)


@contextmanager
def called(name: str) -> Iterator[None]:
    """Let what is made within name this function of Python as its command; also a decorator of the function."""
    token = _CALLED.set(name)
    try:
        yield
    finally:
        _CALLED.reset(token)


def software(*libraries: str) -> dict[str, str]:
    """The versions of this package and of some libraries."""
    return {"sedd": __version__, **{name: importlib.metadata.version(name) for name in libraries}}


@cache
def offered() -> tuple[EntryPoint, ...]:
    """The entry points by which installed packages offer parts; reading them imports none of these packages."""
    return tuple(entry_points(group=GROUP))


def recorded(document: dict[str, Any]) -> dict[str, Any]:
    """The document of a result with `made_by`: the command, the date (UTC), versions and the package's git revision."""
    return {**document, "made_by": made_by()}


def made_by() -> dict[str, Any]:
    """What makes the results of this process.

    command: in Python, the function that was called, such as sedd_cli.train; None outside of one. revision is None
    where the package is no git checkout; it ends in "+changes" where files of the checkout differ from it. parts:
    the files of graphs, schedules, objectives and samplers that are not of this package, if any, with their SHA-256.
    """
    program = Path(sys.argv[0] or "").name
    ours = program == "sedd" or sys.argv[0] == str(PACKAGE / "__main__.py")
    command = shell_command(["sedd", *sys.argv[1:]]) if ours else _CALLED.get()
    outside = sys.modules.get("sedd_cli.recipe.outside")  # while nothing has imported it, there are no such parts
    parts = {f"{key} {name}": origin.to_data() for key, name, origin in outside.outside_parts()} if outside else {}
    return {
        "command": command,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "software": {**software("torch"), "python": platform.python_version()},
        "revision": revision(),
        **({"parts": parts} if parts else {}),
    }


@cache
def revision() -> str | None:
    """The git revision of the package, if its folder lies at the top of a checkout."""
    top = PACKAGE.parent
    if not (top / ".git").exists():
        return None

    def git(*words: str) -> str:
        done = subprocess.run(["git", "-C", str(top), *words], capture_output=True, text=True, timeout=10, check=True)
        return done.stdout.strip()

    try:
        changed = git("status", "--porcelain", "--untracked-files=no", "--", "sedd_cli", "recipes")
        return git("rev-parse", "HEAD") + ("+changes" if changed else "")
    except (OSError, subprocess.SubprocessError):
        return None
