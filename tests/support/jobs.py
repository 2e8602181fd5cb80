"""What generators of events leave behind."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any


def returned(job: Generator[Any, None, Any]) -> Any:
    """What a generator of events returns."""
    while True:
        try:
            next(job)
        except StopIteration as end:
            return end.value
