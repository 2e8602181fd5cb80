"""Versions of software that a result was computed with."""

from __future__ import annotations

import importlib.metadata

from sedd_cli import __version__


def software(*libraries: str) -> dict[str, str]:
    """The versions of this package and of some libraries."""
    return {"sedd": __version__, **{name: importlib.metadata.version(name) for name in libraries}}
