"""Making a table's rows: train what is missing, measure what is trained, as far as the time allows."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass

from sedd_cli.errors import RequestError, WorkError
from sedd_cli.recipe.table import Column
from sedd_cli.runs.dist import Dist
from sedd_cli.runs.estimate import Drawing
from sedd_cli.runs.evaluate import EvaluateOptions, evaluate
from sedd_cli.runs.events import Evaluated, Event, Finished, Note, Warn
from sedd_cli.runs.exact import ExactModel, load_exact
from sedd_cli.runs.load import load_model
from sedd_cli.runs.model import Model
from sedd_cli.runs.pretrained import is_causal
from sedd_cli.runs.status import status
from sedd_cli.runs.table.cells import Cells, Place, look, write_result
from sedd_cli.runs.texts import Text, prepared_for
from sedd_cli.runs.train import TrainOptions, train


@dataclass(frozen=True)
class RunOptions:
    """budget: seconds; a row whose training is not expected to end in what is left of them is not begun."""

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
    for place in places:
        name = f"{place.row.name}, seed {place.seed}"
        cells = look(place)
        if cells.state in ("quoted", "measured"):
            continue
        if options.budget is not None and (
            reason := _too_long(cells, places, options.budget - time.monotonic() + began)
        ):
            left.append({"row": place.row.name, "seed": place.seed, "why": reason})
            continue
        try:
            stopped = yield from _make(cells, options)
        except (RequestError, WorkError) as error:
            yield Warn(f"{name}: {error}")
            left.append({"row": place.row.name, "seed": place.seed, "why": str(error)})
            continue
        if stopped:
            left.append({"row": place.row.name, "seed": place.seed, "why": "stopped; the same command goes on"})
            break
    yield Finished({"left": left})


def seconds_left(cells: Cells, others: Sequence[Place]) -> float | None:
    """How long the rest of a row's training is expected to take here, by what this table's rows took; None: unknown."""
    recipe = cells.place.recipe
    if recipe is None or cells.state in ("trained", "measured"):
        return 0.0
    whole = recipe.train.steps * recipe.train.batch * recipe.model.length
    rates, done = [], 0
    for place in others:
        if not (place.folder / "recipe.yaml").is_file():
            continue
        try:
            found = status(place.folder)
        except RequestError:
            continue  # a run of another version tells nothing
        rates += [r["tokens_per_second"] for r in found.train[-1:] if "tokens_per_second" in r]
        if place == cells.place and found.checkpoint:
            done = int(found.checkpoint.removeprefix("step-"))
    left = whole * (1 - done / recipe.train.steps)
    if rates:
        return left / sorted(rates)[len(rates) // 2]
    mini = cells.place.table.mini
    return mini.minutes * 60 * left / whole if cells.place.mini and mini else None


def _too_long(cells: Cells, places: Sequence[Place], budget: float) -> str:
    needed = seconds_left(cells, places)
    if needed is None:
        return "how long it takes here is not known yet: no row of this table has been trained"
    if needed > budget or budget <= 0:
        return f"about {needed / 60:,.0f} minutes of training, {max(budget, 0) / 60:,.0f} are left of the budget"
    return ""


def _make(cells: Cells, options: RunOptions) -> Generator[Event, None, bool]:
    """Train and measure one place; whether it was stopped on the way."""
    place = cells.place
    yield Note(f"{place.table.name}: {place.row.label}, seed {place.seed}")
    if cells.state == "other":
        raise RequestError(f"{place.folder} {cells.said}; remove that folder to train the row anew")
    if cells.state in ("missing", "training") and place.recipe is not None:
        job = train(place.recipe, TrainOptions(place.folder, options.device, report=False, tell=options.tell))
        for event in job:
            if isinstance(event, Finished):
                if not event.result["finished"]:
                    return True
            else:
                yield event
    known = look(place).results
    missing = [column for column in place.columns if column.name not in known]
    if missing:
        model = _load(place, options.device)
        for column in missing:
            yield from _measure(place, model, column, options)
    return False


def _load(place: Place, device: str) -> Model | ExactModel:
    source = place.source
    return load_exact(source, device) if place.training is None and is_causal(source) else load_model(source, device)


def _measure(place: Place, model: Model | ExactModel, column: Column, options: RunOptions) -> Iterator[Event]:
    dist = Dist(0, 1, model.device)
    dataset = yield from prepared_for(model, Text(column.dataset), dist)
    discrete = not model.exact and model.objective.steps is not None
    asked = EvaluateOptions(
        column.split,
        ("discrete" if discrete else column.protocol,),
        Drawing(rel_error=options.rel_error, max_nfe=options.max_nfe),
        yardsticks=False,
        keep=True,
    )
    for event in evaluate(model, dataset, asked, dist):
        if isinstance(event, Evaluated):
            write_result(place, column, event.result)
        yield event
