"""Building the summary of a table from what exists on this machine."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from sedd_cli.tables.column import Column, Mauve, Quality
from sedd_cli.tables.definition import Row, Table
from sedd_cli.tables.document import (
    Command,
    ControlValue,
    NumberCell,
    OrderCheck,
    RowSummary,
    SeedStatus,
    SeedValue,
    TableSummary,
    TextCell,
    numbers,
)
from sedd_cli.tables.durations import measuring_seconds, remaining_training_seconds, run_seconds
from sedd_cli.tables.frontier import QualityCurve, frontier
from sedd_cli.tables.measures import MEASURES
from sedd_cli.tables.row_run import RowRun
from sedd_cli.tables.row_status import RowStatus, row_status, run_state
from sedd_cli.training.cost import estimate_cost
from sedd_cli.training.durations import about

#: The probability with which the interval of a difference covers the truth.
LEVEL = 0.95


def summary(table: Table, runs: Mapping[str, Sequence[RowRun]], mini: bool) -> TableSummary:
    """Everything that `sedd table` shows. runs: row → its run for each seed."""
    form = table.form(mini)
    by_row = {name: [row_status(run) for run in of_row] for name, of_row in runs.items()}
    every = [status for of_row in by_row.values() for status in of_row]
    rows = tuple(_row(row, by_row[row.name], form.unit, mini, every) for row in table.rows if row.name in by_row)
    return TableSummary(
        table=table.name,
        title=table.title,
        mini=mini,
        unit=form.unit,
        unit_at_full_size=table.unit,
        columns=form.columns,
        rows=rows,
        order=tuple(check for column in form.columns for check in check_order(table, rows, column)),
        frontier=frontier(quality_curves(rows, form.columns)),
        seeds=max(map(len, runs.values())),
        more_seeds=_more_seeds(runs),
        warnings=(*_problems(every), *(line for column in form.columns for line in _not_comparable(every, column))),
        controls=_controls(every),
    )


def quality_curves(rows: Sequence[RowSummary], columns: Sequence[Column]) -> list[QualityCurve]:
    """Each row's values by number of steps; nothing for columns of another kind."""
    steps = {column.name: column.steps for column in columns if isinstance(column, Quality)}
    curves = []
    for row in rows:
        points = {steps[name]: cell.mean for name, cell in numbers(row).items() if name in steps}
        curves.append(QualityCurve(row.name, row.label, row.left_to_right, points))
    return curves


def check_order(table: Table, rows: Sequence[RowSummary], column: Column) -> Iterator[OrderCheck]:
    """For each pair of the table's order that was measured in a column, whether the order holds.

    It is decided only if the interval of the difference at LEVEL leaves out 0. The error of a single seed of MAUVE is
    that of clustering alone, so a single seed gives no verdict.
    """
    cells = {row.name: (row.label, numbers(row)[column.name]) for row in rows if column.name in numbers(row)}
    for lower, higher in table.order:
        if lower not in cells or higher not in cells:
            continue
        (lower_label, a), (higher_label, b) = cells[lower], cells[higher]
        gap, error = b.mean - a.mean, math.hypot(a.error, b.error)
        reach = error * quantile(a, b)
        verdict = "not told apart" if abs(gap) <= reach else "holds" if gap > 0 else "does not hold"
        seeds = min(len(a.seeds), len(b.seeds))
        if isinstance(column, Mauve) and seeds < 2:
            verdict = "not to be told by one seed"
        yield OrderCheck(column.name, lower, higher, lower_label, higher_label, gap, error, seeds, verdict, reach)


def quantile(a: NumberCell, b: NumberCell) -> float:
    """Half the width of the interval of a difference of means at LEVEL, in standard errors.

    Student's t with Welch's degrees of freedom: few seeds say little about how far seeds differ. The error of a single
    seed is that of its measurement, which is known well.
    """
    from scipy.special import ndtri, stdtrit

    spread = sum(cell.error**4 / (len(cell.seeds) - 1) for cell in (a, b) if len(cell.seeds) > 1)
    if spread == 0:
        return float(ndtri((1 + LEVEL) / 2))
    return float(stdtrit((a.error**2 + b.error**2) ** 2 / spread, (1 + LEVEL) / 2))


def _more_seeds(runs: Mapping[str, Sequence[RowRun]]) -> int:
    """The number of further seeds with results, of the row that has most."""
    most = 0
    for of_row in runs.values():
        later = itertools.takewhile(
            lambda run: any(run.result_file(column).is_file() for column in run.columns),
            (replace(of_row[0], seed=seed) for seed in itertools.count(of_row[-1].seed + 1)),
        )
        most = max(most, len(list(later)))
    return most


def _row(row: Row, statuses: Sequence[RowStatus], unit: str, mini: bool, every: Sequence[RowStatus]) -> RowSummary:
    paper, ours = dict(row.paper or {}), {}
    for column in statuses[0].run.columns:
        results = [(s.run.seed, s.results[column.name]) for s in statuses if column.name in s.results]
        if results:
            cell = _cell(results, column, unit)
            if isinstance(cell, NumberCell) and not mini and column.name in paper:
                cell = replace(cell, difference=cell.mean - paper[column.name])
            ours[column.name] = cell
    unfinished = [status for status in statuses if status.state not in ("quoted", "measured")]
    return RowSummary(
        name=row.name,
        label=statuses[0].run.label,
        left_to_right=row.how.left_to_right,
        paper=paper,
        ours=ours,
        seeds=tuple(SeedStatus(status.run.seed, status.state, status.message) for status in statuses),
        commands=tuple(command for status in unfinished for command in _commands(status, every)),
    )


def _cell(results: Sequence[tuple[int, dict[str, Any]]], column: Column, unit: str) -> NumberCell | TextCell:
    """The cell of a row in a column; results: (seed, result document)."""
    seeds, marks = [], {}
    for seed, result in results:
        value = MEASURES[type(column)].value(result, column, unit)
        if value.value is None:
            return TextCell(value.texts or [])
        marks |= dict.fromkeys(value.marks)
        step = result.get("step")
        seeds.append(SeedValue(seed, value.value, value.error, value.how, value.sign, step, value.entropy))
    mean, spread = _mean_and_spread([seed.value for seed in seeds])
    error = seeds[0].error if spread is None else spread / math.sqrt(len(seeds))
    found = NumberCell(mean, error, spread, seeds[0].measure, seeds[0].sign, tuple(seeds), marks=tuple(marks))
    entropies = [seed.entropy for seed in seeds if seed.entropy is not None]
    if len(entropies) < len(seeds):
        return found
    entropy, spread = _mean_and_spread(entropies)
    return replace(found, entropy=entropy, entropy_error=None if spread is None else spread / math.sqrt(len(entropies)))


def _mean_and_spread(values: Sequence[float]) -> tuple[float, float | None]:
    """The mean and the standard deviation of one value a seed; None for a single one."""
    mean = math.fsum(values) / len(values)
    if len(values) == 1:
        return mean, None
    return mean, math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1))


def _controls(every: Sequence[RowStatus]) -> tuple[ControlValue, ...]:
    """Real text and the controls, over all results that hold them."""
    found: dict[str, list[dict[str, Any]]] = {}
    for status in every:
        for result in status.results.values():
            beside = result.get("comparison", {})
            for control in [beside["real"], *beside["controls"]] if beside else []:
                found.setdefault(control["name"], []).append(control)
    return tuple(_control(name, of) for name, of in found.items())


def _control(name: str, of: Sequence[dict[str, Any]]) -> ControlValue:
    perplexities = [control["per_sequence"]["perplexity"] for control in of]
    entropies = [nats for control in of if (nats := control["unigram_entropy"]["nats"]) is not None]
    entropy = math.fsum(entropies) / len(entropies) if entropies else None
    marks = dict.fromkeys(mark for control in of for mark in control["marks"])
    return ControlValue(name, math.fsum(perplexities) / len(perplexities), entropy, tuple(marks))


def _commands(status: RowStatus, every: Sequence[RowStatus]) -> Iterator[Command]:
    """The commands that are left for a row run; none if a run of another recipe is in its folder."""
    if status.state == "other":
        return
    for run in (status.run, *status.run.scorers):
        command = run.train_command()
        if command and run_state(run)[0] in ("missing", "training"):
            yield Command(command, _training_cost(run, every))
    if command := status.run.measure_command():
        yield Command(command, _measuring_cost(status, every))


def _measuring_cost(status: RowStatus, every: Sequence[RowStatus]) -> str | None:
    """The expected cost here of the measurements of a row run, and of the training that they need; None: unknown."""
    seconds = [measuring_seconds(column, status.run.mini, every) for column in status.unmeasured]
    known = [value for value in seconds if value is not None]
    if len(known) < len(seconds):
        return None
    training = remaining_training_seconds(status.run, [other.run for other in every])
    if training is None:
        return f"{about(sum(known))} here, without the training"
    return f"{about(sum(known) + training)} here" + (", with the training" if training else "")


def _training_cost(run: RowRun, every: Sequence[RowStatus]) -> str | None:
    """The expected cost of the remaining training: here, from other rows, or else derived for the paper's hardware."""
    if (seconds := run_seconds(run, [status.run for status in every])) is not None:
        return f"{about(seconds)} here"
    assert run.recipe is not None
    return estimate_cost(run.recipe).to_dict().get("on the paper's hardware")


def _problems(every: Sequence[RowStatus]) -> Iterator[str]:
    """What exists and does not count, and why."""
    for status in every:
        for line in status.problems:
            yield f"{status.run.label}, seed {status.run.seed}: {line}"


def _not_comparable(every: Sequence[RowStatus], column: Column) -> Iterator[str]:
    """A warning if rows of a column were measured on different texts of one name, or by different judges."""
    results = (status.results[column.name] for status in every if column.name in status.results)
    common = {json.dumps(MEASURES[type(column)].common(result)) for result in results}
    if len(common) > 1:
        yield f"{column.name}: {len(common)} different copies of the text, or judges, which do not compare"
