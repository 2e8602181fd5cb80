"""Running a job, which is a generator of events that returns a result."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any


def completed(job: Generator[Any, None, Any]) -> tuple[list[Any], Any]:
    """(events, result) of a job."""
    events = []
    while True:
        try:
            events.append(next(job))
        except StopIteration as end:
            return events, end.value


def without_origin(document: dict[str, Any]) -> dict[str, Any]:
    """A document without the command, the time that it was made by, and the seconds that a report took."""
    assert document["made_by"]["software"]["sedd"]
    return {key: value for key, value in document.items() if key not in ("made_by", "seconds")}


def returned(job: Generator[Any, None, Any]) -> Any:
    """The result of a job."""
    return completed(job)[1]
