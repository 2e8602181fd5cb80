"""Cached parts of a long measurement, from which an interrupted one resumes."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sedd_cli.system.digests import digest
from sedd_cli.system.files import load_array, save_array
from sedd_cli.system.home import home

#: Seconds between writes: the work that an interruption may lose.
SAVE_EVERY = 20.0


@dataclass
class ResultCache:
    """Numbered arrays in a folder; values that are not computed yet are NaN.

    failed: why the last write failed. Then a later run cannot resume, but the present one continues.
    """

    folder: Path
    failed: str = ""
    _saved: float = 0.0

    @classmethod
    def of(cls, key: dict[str, Any]) -> ResultCache:
        """The cache of a measurement that `key` determines."""
        return cls(home() / "evaluations" / digest(key)[:24])

    def read(self, number: int, shape: tuple[int, ...]) -> np.ndarray:
        """Array `number`, all NaN where it is missing, damaged or of another shape."""
        found = load_array(self._path(number))
        if found is None or found.shape != shape or found.dtype != np.float64:
            return np.full(shape, np.nan)
        return found

    def write(self, number: int, values: np.ndarray, at_once: bool = True) -> None:
        """Store an array; unless at_once, only if the last write is SAVE_EVERY seconds ago."""
        if not at_once and time.monotonic() - self._saved < SAVE_EVERY:
            return
        try:
            save_array(self._path(number), values)
        except OSError as error:
            self.failed = f"{self.folder}: {error.strerror}"
        self._saved = time.monotonic()

    def _path(self, number: int) -> Path:
        return self.folder / f"{number}.npy"
