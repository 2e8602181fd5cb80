"""What a job says while it runs. Jobs yield these records; the view draws them, tests consume them."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Event:
    """Base of every record a job yields."""


@dataclass(frozen=True)
class Note(Event):
    """A line worth reading once (which model was chosen, where something was stored)."""

    text: str


@dataclass(frozen=True)
class Warn(Note):
    """A note that the user may want to act upon."""


@dataclass(frozen=True)
class Progress(Event):
    """State of a task whose length is known: `done` of `total` in `unit`, with a few live figures."""

    task: str
    done: int
    total: int | None
    unit: str = ""
    figures: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Step(Event):
    """One optimizer step. Loss in nats per token, rate in tokens per second over all processes."""

    step: int
    steps: int
    loss: float
    grad_norm: float
    lr: float
    tokens_per_second: float
    seconds: float


@dataclass(frozen=True)
class Saved(Event):
    """A checkpoint was written, fsynced and renamed into place."""

    step: int
    path: Path


@dataclass(frozen=True)
class Evaluated(Event):
    """A finished evaluation; `result` is what `results/*.json` holds."""

    result: dict[str, Any]


@dataclass(frozen=True)
class Sampled(Event):
    """One finished sequence: its text, its tokens, the number of network evaluations it took.

    `given` marks the characters of `text` that were given, as (start, stop) spans.
    """

    index: int
    text: str | None
    tokens: list[int]
    nfe: int
    seconds: float
    given: list[tuple[int, int]] = field(default_factory=list)


@dataclass(frozen=True)
class Prepared(Event):
    """A dataset folder is complete; `fresh` says whether this call made it."""

    path: Path
    manifest: dict[str, Any]
    fresh: bool


@dataclass(frozen=True)
class Finished(Event):
    """The job is over; `result` is what `--json` prints."""

    result: dict[str, Any]
