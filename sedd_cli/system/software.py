"""Versions that a result names."""

from __future__ import annotations

import importlib.metadata

from sedd_cli import __version__


def software(*libraries: str) -> dict[str, str]:
    """This package's version, and those of the libraries that had a part in a number."""
    return {"sedd": __version__, **{name: importlib.metadata.version(name) for name in libraries}}
