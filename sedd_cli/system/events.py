"""The events that jobs yield while they run; the command line draws them.

A job is a generator of events that returns its result: `Generator[Event, None, Result]`.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Generator, Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar

E = TypeVar("E", bound="Event")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Event:
    """Base of every record a job yields."""


@dataclass(frozen=True)
class Note(Event):
    """A line of information (which model was chosen, where something was stored)."""

    text: str


@dataclass(frozen=True)
class Warn(Note):
    """A warning."""


@dataclass(frozen=True)
class Progress(Event):
    """Progress of a task: `done` of `total` in `unit`, with a few values to show.

    share: how much of the work is done, from 0 to 1, where `done` does not show it (units of unequal size, begun ones).
    """

    task: str
    done: int
    total: int | None
    unit: str = ""
    metrics: dict[str, str] = field(default_factory=dict)
    share: float | None = None


@dataclass(frozen=True)
class TrainStep(Event):
    """Metrics of the optimizer steps since the last such event, over all processes.

    Attributes:
        step: The last of these steps.
        steps: Steps of the whole training.
        loss: Mean loss in nats per token; None without a step that counts.
        loss_by_t: The same in equal bins of t, None in empty bins; no bins for an autoregressive model.
        grad_norm: Gradient norm of the last step before clipping.
        lr: Learning rate of the last step.
        tokens_per_second: Training rate.
        seconds: Duration of these steps.
        seconds_left: Expected time to the last step.
        memory: Peak bytes of the main process.
        mfu: Useful FLOP/s as a fraction of the devices' peak; None if that is unknown.
        skipped: Steps skipped since the run began.
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
    """The names of the bins of `loss_by_t`: 0.0-0.2 and so on."""
    count = len(loss_by_t)
    return [f"{i / count:.1f}-{(i + 1) / count:.1f}" for i in range(count)]


@dataclass(frozen=True)
class Validated(Event):
    """A bound on part of a split during training, with its Monte Carlo error and its error between documents.

    seconds: with the sample that is drawn beside it. sign: "=" for an exact likelihood, "≤" for an upper bound, "≈" for
    an estimate.
    """

    step: int
    split: str
    bits_per_char: float
    bits_per_char_error: float
    between_documents_error: float | None
    nats_per_token: float
    nats_per_token_error: float
    blocks: int
    seconds: float
    sign: str = "≤"


@dataclass(frozen=True)
class Saved(Event):
    """A checkpoint was written."""

    step: int
    path: Path


@dataclass(frozen=True)
class Evaluated(Event):
    """A dataset has been evaluated, perhaps one of several.

    result: the content of `results/*.json`; documents: that of `results/documents/*.json`.
    """

    result: dict[str, Any]
    documents: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Seen:
    """A sequence that is being denoised.

    Attributes:
        number: Its number.
        offset: Where it begins in the text that it is a part of.
        given: The given tokens [L], None where free.
        x: The current tokens [L].
        evaluations: Network evaluations so far.
        name: What it is called.
    """

    number: int
    offset: int
    given: tuple[int | None, ...]
    x: list[int]
    evaluations: int
    name: str = ""


@dataclass(frozen=True)
class Frame(Event):
    """A batch after a sampling step, for display; seconds since the batch began.

    requested: the number of steps that were asked for, without the step that removes what noise is left at the end.
    """

    step: int
    steps: int
    seconds: float
    sequences: list[Seen]
    requested: int


@dataclass(frozen=True, repr=False)
class Sampled(Event):
    """A finished sample with its number of network evaluations.

    `given` holds the spans (start, stop) of `text` that were given. `levers` are the sampling options that change the
    distribution.
    """

    index: int
    text: str | None
    tokens: list[int]
    nfe: int
    seconds: float
    given: list[tuple[int, int]] = field(default_factory=list)
    #: The training step, for samples drawn during training.
    at_step: int | None = None
    draws: str = "float64"
    seed: int = 0
    sampler: str = "tweedie"
    steps: int | None = None
    levers: dict[str, Any] = field(default_factory=dict)
    prompt: str | None = None
    #: The number of its prompt, from 0, where there are several or one.
    prompt_number: int | None = None
    #: Of a sample drawn in Python: the keys by which `to_dict` names its model and what made it.
    provenance: dict[str, Any] = field(default_factory=dict)

    def __repr__(self) -> str:
        text = f"{len(self.tokens)} tokens" if self.text is None else repr(self.text)
        return f"{type(self).__name__}({text}, evaluations={self.nfe})"

    def to_dict(self) -> dict[str, Any]:
        """All fields, as `--json` and `samples/*.jsonl` hold them; with its model and `made_by` if drawn in Python."""
        found = asdict(self)
        provenance = found.pop("provenance")
        return found | provenance


@dataclass(frozen=True, repr=False)
class Filled(Sampled):
    """A filled template. nfe and seconds are those of all sequences drawn for it.

    Attributes:
        template: The template.
        gaps: The texts of its gaps.
        lengths: Their lengths in tokens.
        bound: Upper bound on −log p in nats per token without levers, where there are several candidates.
        bound_error: Its Monte Carlo error.
        length_nats: −log p of the given tokens after the gaps, where candidates had different lengths.
        candidate: Its rank among the candidates, 0 for the best.
        candidates: Number of candidates. Those of lengths that fit worse are drawn only where all are asked for.
        drawn: Number of sequences drawn, repeated draws included.
        plain_edges: No draw began its gaps with the required spaces, so the spaces are tokens of their own.
        job: The line of a batch of jobs, or the number of the template, where there are several.
    """

    template: str = ""
    gaps: list[str] = field(default_factory=list)
    lengths: list[int] = field(default_factory=list)
    bound: float | None = None
    bound_error: float | None = None
    length_nats: float | None = None
    candidate: int = 0
    candidates: int = 1
    drawn: int = 1
    plain_edges: bool = False
    job: dict[str, Any] | None = None

    def to_dict(self) -> dict[str, Any]:
        """All fields, and the id of a line of a batch behind `index`, the number of the filling."""
        return with_id(super().to_dict())


def with_id(record: dict[str, Any]) -> dict[str, Any]:
    """A stored filling with the id of its line, if its job has one, behind its index."""
    job = record.get("job") or {}
    return {"index": record["index"], "id": job["id"], **record} if "id" in job else record


def expand_events(
    job: Generator[E, None, Result], expand: Callable[[E], Iterable[Event]]
) -> Generator[Event, None, Result]:
    """The job with each event replaced by those that `expand` gives for it."""
    try:
        while True:
            try:
                event = next(job)
            except StopIteration as end:
                return end.value
            yield from expand(event)
    finally:
        job.close()


def map_events(job: Generator[E, None, Result], change: Callable[[E], Event | None]) -> Generator[Event, None, Result]:
    """The job with each event replaced by `change(event)`, or left out where that is None."""

    def expand(event: E) -> Iterable[Event]:
        changed = change(event)
        return () if changed is None else (changed,)

    return expand_events(job, expand)


def result_of(job: Generator[Event, None, Result]) -> Result:
    """Run a job to its end without showing its events."""
    while True:
        try:
            next(job)
        except StopIteration as end:
            return end.value


def warn_caller(text: str) -> None:
    """A warning of Python at the line outside this package that called it."""
    frame, level = sys._getframe(), 1
    while frame.f_back and str(frame.f_globals.get("__name__")).partition(".")[0] in ("sedd_cli", "contextlib"):
        frame, level = frame.f_back, level + 1
    warnings.warn(text, stacklevel=level)


def warned(job: Generator[Event, None, Result]) -> Generator[Event, None, Result]:
    """The job; its warnings are those of Python, too."""
    return observe(job, lambda event: warn_caller(event.text) if isinstance(event, Warn) else None)


def observe(job: Generator[Event, None, Result], see: Callable[[Event], None]) -> Generator[Event, None, Result]:
    """The job; `see` is called with each event before it is passed on."""

    def seen(event: Event) -> Event:
        see(event)
        return event

    return map_events(job, seen)
