"""Figures as PNG files, where matplotlib is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sedd_cli.errors import RequestError, WorkError


def blank(width: float, height: float) -> Any:
    """An empty figure, sizes in inches; RequestError without matplotlib."""
    try:
        import matplotlib.figure
    except ImportError:
        raise RequestError("a figure needs a package: pip install 'sedd[plots]'") from None
    return matplotlib.figure.Figure(figsize=(width, height), layout="constrained")


def save(figure: Any, path: Path) -> None:
    """Write it; WorkError where that fails."""
    try:
        figure.savefig(path, dpi=150)
    except OSError as error:
        raise WorkError(f"cannot write {path}: {error.strerror}") from None
