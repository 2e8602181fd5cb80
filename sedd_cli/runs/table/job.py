"""Making a table's rows: train what is missing, measure what is trained, as far as the time allows."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass

from sedd_cli.errors import RequestError, WorkError
from sedd_cli.runs.events import Event, Finished, Note, Warn
from sedd_cli.runs.status import status
from sedd_cli.runs.table.cells import Cells, look, run_state, write_result
from sedd_cli.runs.table.measures import MEASURES, Desk
from sedd_cli.runs.table.place import Place
from sedd_cli.runs.train import TrainOptions, train


@dataclass(frozen=True)
class RunOptions:
    """budget: seconds; what is not expected to end in what is left of them is not begun."""

    device: str = "auto"
    budget: float | None = None
    rel_error: float = 0.005
    max_nfe: int = 64
    tell: Callable[[str], None] = lambda text: None


def make(places: Sequence[Place], options: RunOptions) -> Iterator[Event]:
    """Train and measure places that are not measured yet; Finished lists those that are left and why.

    A row that fails does not keep the others from being made. Ctrl-C leaves a state from which the same call goes on.
    """
    began, left = time.monotonic(), []
    desk = Desk(options.device, options.rel_error, options.max_nfe)
    for place in places:
        name = f"{place.row.name}, seed {place.seed}"
        cells = look(place)
        if cells.state in ("quoted", "measured"):
            continue
        remaining = None if options.budget is None else options.budget - time.monotonic() + began
        if remaining is not None and (reason := _too_long(cells, places, remaining)):
            left.append({"row": place.row.name, "seed": place.seed, "why": reason})
            continue
        try:
            stopped = yield from _make(cells, desk, options)
        except (RequestError, WorkError) as error:
            yield Warn(f"{name}: {error}")
            left.append({"row": place.row.name, "seed": place.seed, "why": str(error)})
            continue
        if stopped:
            left.append({"row": place.row.name, "seed": place.seed, "why": "stopped; the same command goes on"})
            break
    yield Finished({"left": left})


def training_seconds(place: Place, others: Sequence[Place]) -> float | None:
    """How long the rest of the training of a place's run, and of its judges', is expected to take here, by what these
    places took; None: unknown."""
    parts = [_training_seconds(one, others) for one in (place, *place.readers)]
    return None if None in parts else sum(parts)


def _training_seconds(place: Place, others: Sequence[Place]) -> float | None:
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


def measuring_seconds(cells: Cells, others: Sequence[Cells]) -> float | None:
    """How long measuring what is left of a place is expected to take, by what others took in the same columns; None:
    unknown."""
    parts = []
    for column in cells.left:
        took = [other.seconds[column.name] for other in others if column.name in other.seconds]
        if not took:
            return None
        parts.append(statistics.median(took))
    return sum(parts)


def _too_long(cells: Cells, places: Sequence[Place], budget: float) -> str:
    """Why a place is not begun with so many seconds left; what measuring takes is counted where it is known."""
    training = training_seconds(cells.place, places)
    if training is None:
        return "how long it takes here is not known yet: no row of this table has been trained"
    needed = training + (measuring_seconds(cells, [look(place) for place in places]) or 0.0)
    if needed > budget or budget <= 0:
        return f"about {needed / 60:,.1f} minutes of work, {max(budget, 0) / 60:,.1f} are left of the budget"
    return ""


def _make(cells: Cells, desk: Desk, options: RunOptions) -> Generator[Event, None, bool]:
    """Train and measure one place; whether it was stopped on the way."""
    place = cells.place
    yield Note(f"{place.table.name}: {place.label}, seed {place.seed}")
    for one in (place, *place.readers):
        if (yield from _train(one, options)):
            return True
    for column in look(place).left:
        began = time.monotonic()
        result = yield from MEASURES[type(column)].run(place, column, desk)
        write_result(place, column, result, time.monotonic() - began)
    return False


def _train(place: Place, options: RunOptions) -> Generator[Event, None, bool]:
    """Train the run of a place, if it is to be trained; whether that was stopped on the way."""
    if place.training is None:
        return False
    state, said = run_state(place)
    if state == "other":
        raise RequestError(f"{place.trained.folder} {said}; remove that folder to train the row anew")
    if state == "trained":
        return False
    asked = TrainOptions(place.trained.folder, options.device, report=False, tell=options.tell)
    for event in train(place.recipe, asked):
        if isinstance(event, Finished):
            return not event.result["finished"]
        yield event
    return False
