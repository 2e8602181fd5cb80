"""A table as plain data: the paper's values, ours with their errors, and whether the paper's order holds."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

from sedd_cli.recipe.build import plain
from sedd_cli.recipe.column import Column, Quality
from sedd_cli.recipe.table import Row, Table
from sedd_cli.runs.plan import plan
from sedd_cli.runs.table.cells import Cells, look, run_state
from sedd_cli.runs.table.frontier import frontier
from sedd_cli.runs.table.job import measuring_seconds, training_seconds
from sedd_cli.runs.table.measures import MEASURES
from sedd_cli.runs.table.place import Place


def summary(table: Table, places: dict[str, list[Place]], mini: bool) -> dict[str, Any]:
    """Everything there is to show; places: row → one for each seed."""
    form = table.mini if mini and table.mini else table
    cells = {name: [look(place) for place in of_row] for name, of_row in places.items()}
    every = [one for of_row in cells.values() for one in of_row]
    rows = [_row(row, cells[row.name], form.unit, mini, every) for row in table.rows if row.name in cells]
    columns = [plain(column) for column in form.columns]
    numbers = form.unit != "text"
    return {
        "table": table.name,
        "title": table.title,
        "mini": mini,
        "unit": form.unit,
        "columns": columns,
        "rows": rows,
        "order": [e for column in columns for e in _order(table, rows, column["name"])] if numbers else [],
        "frontier": frontier(rows, form.columns) if isinstance(form.columns[0], Quality) else [],
        "warnings": [line for column in columns for line in _mixed(cells, column["name"])],
    }


def _row(row: Row, cells: Sequence[Cells], unit: str, mini: bool, every: Sequence[Cells]) -> dict[str, Any]:
    paper, ours = dict(row.paper or {}), {}
    for column in cells[0].place.columns:
        found = [(c.place.seed, c.results[column.name]) for c in cells if column.name in c.results]
        if found:
            ours[column.name] = value = _value(found, column, unit)
            if not mini and column.name in paper:
                value["difference"] = value["mean"] - paper[column.name]
    left = [place for place in cells if place.state not in ("quoted", "measured")]
    return {
        "name": row.name,
        "label": cells[0].place.label,
        "paper": paper,
        "ours": ours,
        "seeds": [{"seed": c.place.seed, "state": c.state, "said": c.said} for c in cells],
        "commands": [entry for c in left for entry in _commands(c, every)],
    }


def _commands(cells: Cells, every: Sequence[Cells]) -> Iterator[dict[str, str | None]]:
    """What is to be done for a place, and what it is expected to cost; nothing for a run that is in the way."""
    if cells.state == "other":
        return
    for one in (cells.place, *cells.place.readers):
        if one.training and run_state(one)[0] in ("missing", "training"):
            yield {"command": one.train_command(), "cost": _cost(one, every)}
    seconds = measuring_seconds(cells, every)
    cost = None if seconds is None else _minutes(seconds)
    yield {"command": cells.place.measure_command(), "cost": cost}


def _cost(place: Place, every: Sequence[Cells]) -> str | None:
    """What the rest of the training is expected to take: here, by other rows, or on the paper's hardware, derived."""
    alone = [one.place for one in every]
    if (seconds := training_seconds(place, alone)) is not None:
        return _minutes(seconds)
    return plan(place.recipe).get("on the paper's hardware")


def _minutes(seconds: float) -> str:
    return f"about {seconds / 60:,.0f} minutes here" if seconds >= 90 else "about a minute here"


def _mixed(cells: dict[str, list[Cells]], column: str) -> Iterator[str]:
    """Whether rows of a column were measured on texts that differ, though they have one name."""
    trained = [
        c.results[column] for of_row in cells.values() for c in of_row if column in c.results and c.place.training
    ]
    prints = {found.get("fingerprint") for found in trained}
    if len(prints) > 1:
        yield f"the rows of {column} were measured on {len(prints)} different copies of the text, and do not compare"


def _value(found: list[tuple[int, dict[str, Any]]], column: Column, unit: str) -> dict[str, Any]:
    """The mean over seeds, and its error by their spread; of a single seed that of the measurement, which says nothing
    of how seeds differ. measure: how it was measured, where that is not as its column says."""
    seeds = []
    for seed, result in found:
        value = MEASURES[type(column)].value(result, column, unit)
        if value.texts is not None:
            return {"texts": value.texts}  # those of the first seed
        entry = {"seed": seed, "value": value.value, "error": value.error, "measure": value.how}
        seeds.append(entry | {"step": result.get("step")})
    values = [entry["value"] for entry in seeds]
    mean, spread, error = math.fsum(values) / len(values), None, seeds[0]["error"]
    if len(values) > 1:
        spread = math.sqrt(math.fsum((v - mean) ** 2 for v in values) / (len(values) - 1))
        error = spread / math.sqrt(len(values))
    return {"mean": mean, "error": error, "spread": spread, "measure": seeds[0]["measure"], "seeds": seeds}


def _order(table: Table, rows: Sequence[dict[str, Any]], column: str) -> Iterator[dict[str, Any]]:
    """For each pair of which the paper finds the first lower, whether ours are, where both were measured."""
    ours = {row["name"]: row["ours"].get(column) for row in rows}
    for low, high in table.order:
        a, b = ours.get(low), ours.get(high)
        if a and b:
            gap, error = b["mean"] - a["mean"], math.hypot(a["error"], b["error"])
            verdict = "not told apart" if abs(gap) < 2 * error else "holds" if gap > 0 else "does not hold"
            yield {"column": column, "lower": low, "higher": high, "gap": gap, "error": error, "verdict": verdict}


def papers(found: dict[str, Any]) -> list[str]:
    """The columns of a summary that the paper has a value for in some row."""
    return list(dict.fromkeys(name for row in found["rows"] for name in row["paper"]))


def markdown(found: dict[str, Any]) -> str:
    """The same as a Markdown table."""
    names = [column["name"] for column in found["columns"]]
    heads = ["model", *(f"{name}: paper" for name in papers(found)), *(f"{name}: ours" for name in names)]
    lines = [f"| {' | '.join(heads)} |", f"|{'---|' * len(heads)}"]
    for row in found["rows"]:
        cells = [row["label"], *(printed(row["paper"].get(name)) for name in papers(found))]
        cells += [_ours(row, name) for name in names]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _ours(row: dict[str, Any], name: str) -> str:
    if value := row["ours"].get(name):
        if "texts" in value:
            return value["texts"][0]["text"].replace("|", "\\|").replace("\n", " ⏎ ")
        return f"{value['mean']:.3f} ± {value['error']:.3f}" + (f" ({value['measure']})" if value["measure"] else "")
    return "" if row["ours"] else row["seeds"][0]["said"] or row["seeds"][0]["state"]


def printed(value: float | None) -> str:
    """A value of the paper, to two digits or as many as it gives."""
    return "" if value is None else f"{value:.2f}" if round(value, 2) == value else f"{value:g}"
