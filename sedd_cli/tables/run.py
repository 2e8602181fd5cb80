"""Training and measuring the rows of a table that have no result yet, within a time budget."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Any

from sedd_cli.errors import RequestError, WorkError, out_of_memory
from sedd_cli.system.events import Event, Note, Warn
from sedd_cli.tables.column import Column
from sedd_cli.tables.durations import measuring_seconds, remaining_training_seconds
from sedd_cli.tables.measures import MEASURES, ModelCache
from sedd_cli.tables.row_run import RowRun
from sedd_cli.tables.row_status import RowStatus, row_status, run_state, write_result
from sedd_cli.training.durations import about, in_words
from sedd_cli.training.train import TrainOptions, train

STOPPED = "stopped; the same command continues"


@dataclass(frozen=True)
class RunOptions:
    """budget: in seconds; a training or measurement that is expected to exceed the rest of it is not started."""

    device: str = "auto"
    budget: float | None = None
    rel_error: float = 0.005
    max_nfe: int = 64
    notify: Callable[[str], None] = lambda text: None


@dataclass(frozen=True)
class UnfinishedRow:
    """A row run that was not completed, and why. code: the exit code of a failure."""

    row: str
    seed: int
    why: str
    code: int | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain data; a row that did not fail has no code."""
        return {key: value for key, value in vars(self).items() if value is not None}


@dataclass(frozen=True)
class RunResult:
    """left: rows that were not started or not completed. failed: rows that raised an error."""

    left: tuple[UnfinishedRow, ...]
    failed: tuple[UnfinishedRow, ...]

    def to_dict(self) -> dict[str, list[dict[str, Any]]]:
        return {"left": [row.to_dict() for row in self.left], "failed": [row.to_dict() for row in self.failed]}


def make(runs: Sequence[RowRun], options: RunOptions) -> Generator[Event, None, RunResult]:
    """Train and measure the row runs that are not measured yet, or not as precisely.

    A row that fails does not stop the others. After Ctrl-C the same call continues.
    """
    began = time.monotonic()
    left: list[UnfinishedRow] = []
    failed: list[UnfinishedRow] = []
    models = ModelCache(options.device, options.rel_error, options.max_nfe)
    for run in runs:
        found = row_status(run)
        if found.state == "quoted" or (found.state == "measured" and not _columns_left(found, options.rel_error)):
            continue
        deadline = None if options.budget is None else began + options.budget
        try:
            why = yield from _make_row(run, runs, models, options, deadline)
        except (RequestError, RuntimeError, MemoryError) as error:
            if not (isinstance(error, RequestError | WorkError) or out_of_memory(error)):
                raise
            why = str(error) if isinstance(error, RequestError | WorkError) else "not enough memory"
            yield Warn(f"{run.row.name}, seed {run.seed}: {why}")
            code = 2 if isinstance(error, RequestError) else 1
            failed.append(UnfinishedRow(run.row.name, run.seed, why, code))
            continue
        if why:
            left.append(UnfinishedRow(run.row.name, run.seed, why))
        if why == STOPPED:
            break
    return RunResult(tuple(left), tuple(failed))


def _make_row(
    run: RowRun, runs: Sequence[RowRun], models: ModelCache, options: RunOptions, deadline: float | None
) -> Generator[Event, None, str]:
    """Train and measure one row run. Returns why it is not complete, or an empty string."""
    needed = remaining_training_seconds(run, runs) if deadline is not None else 0.0
    if needed is None:
        return f"how long it takes here is not known yet: neither {run.trained.folder} nor another run is trained"
    if needed and (reason := _exceeds(deadline, needed, "training")):
        return reason
    yield Note(f"{run.table.name}: {run.label}, seed {run.seed}")
    for one in (run, *run.scorers):
        if (yield from _train(one, options)):
            return STOPPED
    for column in _columns_left(row_status(run), options.rel_error):
        if deadline is not None:
            seconds = measuring_seconds(column, run.mini, [row_status(other) for other in runs])
            if seconds is None:
                return f"how long measuring {column.name} takes here is not known yet: do it once without --budget"
            if reason := _exceeds(deadline, seconds, f"measuring {column.name}"):
                return reason
        began = time.monotonic()
        result = yield from MEASURES[type(column)].run(run, column, models)
        write_result(run, column, result, time.monotonic() - began)
    return ""


def _columns_left(found: RowStatus, rel_error: float) -> list[Column]:
    """The columns in which a row run has no result, or one of a larger error than is asked for."""
    results = found.results
    return [
        column
        for column in found.run.columns
        if column.name not in results or not MEASURES[type(column)].is_precise(results[column.name], rel_error)
    ]


def _exceeds(deadline: float | None, seconds: float, work: str) -> str:
    """Why work of that many seconds is not started, if it would end after the deadline (of time.monotonic)."""
    if deadline is None or seconds < (remaining := deadline - time.monotonic()):
        return ""
    return f"{work} takes {about(seconds)}; left of the budget: {in_words(remaining)}"


def _train(run: RowRun, options: RunOptions) -> Generator[Event, None, bool]:
    """Train the run of a row, if needed. Returns whether a signal stopped it; KeyboardInterrupt after Ctrl-C."""
    if run.recipe is None:
        return False
    state, message = run_state(run)
    if state == "other":
        raise RequestError(message)
    if state == "trained":
        return False
    train_options = TrainOptions(run.trained.folder, options.device, report=False, notify=options.notify)
    result = yield from train(run.recipe, train_options)
    if result.interrupted:
        raise KeyboardInterrupt
    return not result.finished
