"""Making a table's rows: train what is missing, measure what is trained, as far as the time allows."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass

from sedd_cli.errors import RequestError, WorkError
from sedd_cli.system.events import Event, Finished, Note, Warn
from sedd_cli.tables.cells import Cells, look, run_state, write_result
from sedd_cli.tables.column import Column
from sedd_cli.tables.measures import MEASURES, Desk
from sedd_cli.tables.row_run import RowRun
from sedd_cli.training.status import status
from sedd_cli.training.train import TrainOptions, train

STOPPED = "stopped; the same command goes on"


@dataclass(frozen=True)
class RunOptions:
    """budget: seconds; what is expected not to end in what is left of them is not begun, training or measurement."""

    device: str = "auto"
    budget: float | None = None
    rel_error: float = 0.005
    max_nfe: int = 64
    tell: Callable[[str], None] = lambda text: None


def make(places: Sequence[RowRun], options: RunOptions) -> Iterator[Event]:
    """Train and measure places that are not measured yet; Finished lists those that are left or failed, and why.

    A row that fails does not keep the others from being made. Ctrl-C leaves a state from which the same call goes on.
    """
    began, left, failed = time.monotonic(), [], []
    desk = Desk(options.device, options.rel_error, options.max_nfe)
    for place in places:
        name = f"{place.row.name}, seed {place.seed}"
        cells = look(place)
        if cells.state in ("quoted", "measured"):
            continue
        until = None if options.budget is None else began + options.budget
        try:
            why = yield from _make(place, places, desk, options, until)
        except (RequestError, WorkError) as error:
            yield Warn(f"{name}: {error}")
            code = 1 + isinstance(error, RequestError)
            failed.append({"row": place.row.name, "seed": place.seed, "why": str(error), "code": code})
            continue
        if why:
            left.append({"row": place.row.name, "seed": place.seed, "why": why})
        if why == STOPPED:
            break
    yield Finished({"left": left, "failed": failed})


def training_seconds(place: RowRun, others: Sequence[RowRun]) -> float | None:
    """How long the rest of the training of a place's run, and of its judges', is expected to take; None: unknown."""
    parts = [run_seconds(one, others) for one in (place, *place.readers)]
    return None if None in parts else sum(parts)


def run_seconds(place: RowRun, others: Sequence[RowRun]) -> float | None:
    """How long the rest of the training of a place's run is expected to take here, by what these places took; None:
    unknown."""
    recipe = place.recipe
    if recipe is None or run_state(place)[0] == "trained":
        return 0.0
    whole = recipe.train.steps * recipe.train.batch * recipe.model.length
    rates, done = [], 0
    for folder in dict.fromkeys(other.trained.folder for other in (place, *others)):
        if not (folder / "recipe.yaml").is_file():
            continue
        try:
            found = status(folder)
        except RequestError:
            continue  # a run of another version tells nothing
        rates += [r["tokens_per_second"] for r in found.train[-1:] if "tokens_per_second" in r]
        if folder == place.trained.folder and found.checkpoint:
            done = int(found.checkpoint.removeprefix("step-"))
    left = whole * (1 - done / recipe.train.steps)
    if rates:
        return left / statistics.median(rates)
    mini = place.trained.table.mini
    return mini.minutes * 60 * left / whole if place.mini and mini else None


def measuring_seconds(column: Column, mini: bool, others: Sequence[Cells]) -> float | None:
    """How long a measurement is expected to take, by what others took in the same column; None: unknown.

    At laptop size a minute, before anything is known.
    """
    took = [other.seconds[column.name] for other in others if column.name in other.seconds]
    return statistics.median(took) if took else 60.0 if mini else None


def spoken(seconds: float) -> str:
    """A stretch of time in words, as roughly as it is known."""
    if seconds < 90:
        return f"{max(seconds, 0):.0f} seconds"
    return f"{seconds / 60:.0f} minutes" if seconds < 5400 else f"{seconds / 3600:.1f} hours"


def _too_long(seconds: float, until: float | None, work: str) -> str:
    """Why work of so many seconds is not begun, where it would end behind `until` (of time.monotonic)."""
    if until is None or seconds < (left := until - time.monotonic()):
        return ""
    return f"{work} takes about {spoken(seconds)}, {spoken(left)} are left of the budget"


def _make(
    place: RowRun, places: Sequence[RowRun], desk: Desk, options: RunOptions, until: float | None
) -> Generator[Event, None, str]:
    """Train and measure one place; what keeps it from being whole, if anything."""
    needed = training_seconds(place, places) if until is not None else 0.0
    if needed is None:
        return f"how long it takes here is not known yet: neither {place.trained.folder} nor another run is trained"
    if needed and (reason := _too_long(needed, until, "training")):
        return reason
    yield Note(f"{place.table.name}: {place.label}, seed {place.seed}")
    for one in (place, *place.readers):
        if (yield from _train(one, options)):
            return STOPPED
    for column in look(place).left:
        if until is not None:
            seconds = measuring_seconds(column, place.mini, [look(other) for other in places])
            if seconds is None:
                return f"how long measuring {column.name} takes here is not known yet: do it once without --budget"
            if reason := _too_long(seconds, until, f"measuring {column.name}"):
                return reason
        began = time.monotonic()
        result = yield from MEASURES[type(column)].run(place, column, desk)
        write_result(place, column, result, time.monotonic() - began)
    return ""


def _train(place: RowRun, options: RunOptions) -> Generator[Event, None, bool]:
    """Train the run of a place, if it is to be trained; whether that was stopped on the way."""
    if place.training is None:
        return False
    state, said = run_state(place)
    if state == "other":
        raise RequestError(said)
    if state == "trained":
        return False
    asked = TrainOptions(place.trained.folder, options.device, report=False, tell=options.tell)
    for event in train(place.recipe, asked):
        if isinstance(event, Finished):
            return not event.result["finished"]
        yield event
    return False
