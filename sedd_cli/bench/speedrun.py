"""The speedrun: how good a recipe's model is after how many seconds, everything counted."""

from __future__ import annotations

import math
import time
from collections.abc import Generator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from sedd_cli.bench.compare import Machine
from sedd_cli.checkpoints.run_directory import RunDir
from sedd_cli.errors import RequestError, WorkError
from sedd_cli.recipe import Recipe
from sedd_cli.system.distributed import pick_device
from sedd_cli.system.events import Evaluated, Event, TrainStep, Validated, observe
from sedd_cli.training.train import TrainOptions, train


@dataclass(frozen=True, kw_only=True)
class SpeedrunOptions:
    """What is trained, where, and in what time.

    run: the run directory; if it exists, a new one beside it. minutes: for everything (preparing the text, training,
    validation, the evaluation, samples), counted from `began` (`time.monotonic`).
    """

    recipe: Recipe
    run: Path
    minutes: float = 4.0
    device: str = "auto"
    began: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        if not 0 < self.minutes < math.inf:
            raise RequestError(f"minutes must be positive, found {self.minutes}")


@dataclass(frozen=True)
class Point:
    """A measured model. sign: "=" for an exact likelihood, "≤" for an upper bound, "≈" for an estimate."""

    seconds: float
    step: int
    tokens: int
    split: str
    sign: str
    bits_per_char: float
    bits_per_char_error: float


@dataclass(frozen=True)
class SpeedrunResult:
    """The models measured on the way, the last of them on the report's whole split.

    seconds: until everything had ended, or until the time was over. memory: peak bytes while training.
    step: the last step of the training, of `steps`.
    """

    run: Path
    recipe: str
    minutes: float
    seconds: float
    step: int
    steps: int
    memory: int
    points: list[Point]
    machine: Machine

    @property
    def within(self) -> bool:
        """Whether everything ended in time."""
        return self.step == self.steps and self.seconds <= 60 * self.minutes

    def to_dict(self) -> dict[str, Any]:
        """The JSON document."""
        found = {"bench": "speedrun", **asdict(self), "run": str(self.run), "within": self.within}
        return found | found.pop("machine")


@dataclass
class _Course:
    """What is read from the events of a training: its models so far, its last step, its memory."""

    options: SpeedrunOptions
    points: list[Point] = field(default_factory=list)
    step: int = 0
    memory: int = 0

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.options.began

    def see(self, event: Event) -> None:
        """Take note of an event."""
        if isinstance(event, TrainStep):
            self.step, self.memory = event.step, max(self.memory, event.memory)
        elif isinstance(event, Validated):
            self._add(event.step, event.split, event.sign, event.bits_per_char, event.bits_per_char_error)
        elif isinstance(event, Evaluated):
            found = event.result
            bound = found["bounds"].get("rigorous") or next(iter(found["bounds"].values()))
            self._add(self.step, found["split"], bound["sign"], bound["bits_per_char"], bound["bits_per_char_error"])

    def _add(self, step: int, split: str, sign: str, value: float, error: float) -> None:
        recipe = self.options.recipe
        tokens = step * recipe.train.batch * recipe.model.length
        self.points.append(Point(self.seconds, step, tokens, split, sign, value, error))


def bench_speedrun(options: SpeedrunOptions) -> Generator[Event, None, SpeedrunResult]:
    """Train, validate, evaluate and sample as `sedd train` does.

    Where the time is over, the training ends with the step, and a checkpoint, as it does after a signal.

    Raises:
        KeyboardInterrupt: Ctrl-C stopped the training.
        WorkError: Another signal stopped it.
    """
    course, folder, recipe = _Course(options), RunDir(options.run).fresh().path, options.recipe
    until = options.began + 60 * options.minutes
    trained = yield from observe(train(recipe, TrainOptions(folder, options.device, until=until)), course.see)
    if trained.interrupted:
        raise KeyboardInterrupt
    if not trained.finished and time.monotonic() < until:
        raise WorkError(f"a signal stopped the training at step {trained.step:,} of {recipe.train.steps:,}")
    machine = Machine.here(pick_device(options.device))
    facts = course.seconds, course.step, recipe.train.steps, course.memory, course.points
    return SpeedrunResult(folder, recipe.name, options.minutes, *facts, machine)
