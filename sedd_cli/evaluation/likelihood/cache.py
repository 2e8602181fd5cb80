"""Finished parts of a long measurement, kept so that an interrupted one goes on."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sedd_cli.system.digests import digest
from sedd_cli.system.files import save_array
from sedd_cli.system.home import home

#: Seconds of work that a kill may cost.
SAVE_EVERY = 20.0


@dataclass
class ResultCache:
    """Arrays by number in a folder; what is not known in them yet is NaN.

    `failed` says why the last array could not be kept: that costs a later run its start, and this one nothing.
    """

    folder: Path
    failed: str = ""
    _saved: float = 0.0

    @classmethod
    def of(cls, key: dict[str, Any]) -> ResultCache:
        """The ledger of what a key's values determine."""
        return cls(home() / "evaluations" / digest(key)[:24])

    def read(self, number: int, shape: tuple[int, ...]) -> np.ndarray:
        """Array `number` of a shape, as far as it is known."""
        try:
            found = np.load(self._path(number))
        except (OSError, ValueError, EOFError):
            found = np.empty(0)
        return found if found.shape == shape and found.dtype == np.float64 else np.full(shape, np.nan)

    def write(self, number: int, values: np.ndarray, at_once: bool = True) -> None:
        """Keep an array; unless at_once, only if the last time is a while ago."""
        if not at_once and time.monotonic() - self._saved < SAVE_EVERY:
            return
        try:
            save_array(self._path(number), values)
        except OSError as error:
            self.failed = f"{self.folder}: {error.strerror}"
        self._saved = time.monotonic()

    def _path(self, number: int) -> Path:
        return self.folder / f"{number}.npy"
