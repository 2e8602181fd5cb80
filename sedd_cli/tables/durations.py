"""Expected durations of training and measuring, from what other rows of a table took here."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from sedd_cli.errors import RequestError
from sedd_cli.tables.column import Column
from sedd_cli.tables.row_run import RowRun
from sedd_cli.tables.row_status import RowStatus, run_state
from sedd_cli.training.status import status


def remaining_training_seconds(run: RowRun, others: Sequence[RowRun]) -> float | None:
    """Expected seconds of the remaining training of a row's run and of its judges' runs; None: unknown."""
    total = 0.0
    for one in (run, *run.scorers):
        if (seconds := run_seconds(one, others)) is None:
            return None
        total += seconds
    return total


def run_seconds(run: RowRun, others: Sequence[RowRun]) -> float | None:
    """Expected seconds of the remaining training of a row's run, at the rate of the runs here; None: unknown."""
    recipe = run.recipe
    if recipe is None or run_state(run)[0] == "trained":
        return 0.0
    tokens = recipe.train.steps * recipe.train.batch * recipe.model.length
    rates, done = [], 0
    for folder in dict.fromkeys(other.trained.folder for other in (run, *others)):
        if not (folder / "recipe.yaml").is_file():
            continue
        try:
            found = status(folder)
        except RequestError:
            continue  # a run of another version
        rates += [r["tokens_per_second"] for r in found.train[-1:] if "tokens_per_second" in r]
        if folder == run.trained.folder and found.checkpoint:
            done = int(found.checkpoint.removeprefix("step-"))
    remaining = tokens * (1 - done / recipe.train.steps)
    if rates:
        return remaining / statistics.median(rates)
    mini = run.trained.table.mini
    return mini.minutes * 60 * remaining / tokens if run.mini and mini else None


def measuring_seconds(column: Column, mini: bool, others: Sequence[RowStatus]) -> float | None:
    """Expected seconds of a measurement, from other rows of the column; None: unknown.

    At laptop size, a minute if no other row is measured.
    """
    known = [other.seconds[column.name] for other in others if column.name in other.seconds]
    return statistics.median(known) if known else 60.0 if mini else None
