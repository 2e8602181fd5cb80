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
class TrainStep(Event):
    """The optimizer steps since the last such event, over all processes. Losses in nats per token.

    loss_by_t: the loss in five equal bins of t, None where nothing fell; no bins where there is no noise. grad_norm of
    the last step, before it was clipped. memory: the most bytes the main process has taken. mfu: useful FLOP/s as a
    share of the devices' known peak. skipped: steps left out since the run began.
    """

    step: int
    steps: int
    loss: float | None
    loss_by_t: list[float | None]
    grad_norm: float | None
    lr: float
    tokens_per_second: float
    seconds: float
    seconds_left: float
    memory: int
    mfu: float | None
    skipped: int


def bin_names(loss_by_t: list[float | None]) -> list[str]:
    """ "0.0-0.2" … for the bins of t in which a loss is told."""
    count = len(loss_by_t)
    return [f"{i / count:.1f}-{(i + 1) / count:.1f}" for i in range(count)]


@dataclass(frozen=True)
class Validated(Event):
    """A bound on part of a split, on the way; errors of the draws and of the choice of text."""

    step: int
    split: str
    bits_per_char: float
    bits_per_char_error: float
    between_documents_error: float | None
    nats_per_token: float
    nats_per_token_error: float
    blocks: int
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
class Seen:
    """A sequence on its way: what was asked for (None where free), and x [L] after `evaluations` of the network.

    offset: where it begins in the text that it is a part of.
    """

    number: int
    offset: int
    asked: tuple[int | None, ...]
    x: list[int]
    evaluations: int


@dataclass(frozen=True)
class Frame(Event):
    """A batch after a step, for whoever watches; seconds since the batch began."""

    step: int
    steps: int
    seconds: float
    sequences: list[Seen]


@dataclass(frozen=True)
class Sampled(Event):
    """One finished sequence: its text, its tokens, the number of network evaluations it took.

    `given` marks the characters of `text` that were given, as (start, stop) spans. seed, sampler, steps and draws say
    how it was drawn; `levers` are the options that made this another law than the model's.
    """

    index: int
    text: str | None
    tokens: list[int]
    nfe: int
    seconds: float
    given: list[tuple[int, int]] = field(default_factory=list)
    #: The training step at which it was drawn, on the way.
    at_step: int | None = None
    draws: str = "float64"
    seed: int = 0
    sampler: str = "tweedie"
    steps: int | None = None
    levers: dict[str, Any] = field(default_factory=dict)
    prompt: str | None = None


@dataclass(frozen=True)
class Filled(Sampled):
    """A filled template, with the texts of its gaps. nfe and seconds are those of all that was drawn for it.

    bound, bound_error: an upper bound on −log p in nats per token under the model without levers, where candidates were
    compared. candidate: its
    place among `candidates`, from 0, the best. drawn: sequences that were drawn in all. plain_edges: no draw began
    its gaps with the spaces that the text asks for, so the spaces are tokens of their own. job: the line and what it
    asks for, in a batch of jobs.
    """

    template: str = ""
    gaps: list[str] = field(default_factory=list)
    lengths: list[int] = field(default_factory=list)
    bound: float | None = None
    bound_error: float | None = None
    candidate: int = 0
    candidates: int = 1
    drawn: int = 1
    plain_edges: bool = False
    job: dict[str, Any] | None = None


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
