"""A table as plain data: the paper's values, ours with their errors, and whether the paper's order holds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from sedd_cli.recipe.table import Row, Table
from sedd_cli.runs.plan import plan
from sedd_cli.runs.table.cells import Cells, Place, look
from sedd_cli.runs.table.job import seconds_left


def summary(table: Table, places: dict[str, list[Place]], mini: bool) -> dict[str, Any]:
    """Everything there is to show; places: row → one for each seed."""
    every = [place for of_row in places.values() for place in of_row]
    unit = table.mini.unit if mini and table.mini else table.unit
    rows = [_row(row, [look(place) for place in places[row.name]], unit, mini, every) for row in _rows(table, mini)]
    columns = [vars(column) for column in (table.mini.columns if mini and table.mini else table.columns)]
    return {
        "table": table.name,
        "title": table.title,
        "mini": mini,
        "unit": unit,
        "columns": columns,
        "rows": rows,
        "order": _order(table, rows, columns[0]["name"]),
    }


def _rows(table: Table, mini: bool) -> list[Row]:
    return [row for row in table.rows if not mini or row.mini is not None]


def _row(row: Row, cells: Sequence[Cells], unit: str, mini: bool, every: Sequence[Place]) -> dict[str, Any]:
    paper, ours = dict(row.paper or {}), {}
    for column in cells[0].place.columns:
        found = [(c.place.seed, c.results[column.name]) for c in cells if column.name in c.results]
        if found and (value := _value(found, unit)):
            ours[column.name] = value
            if not mini and column.name in paper:
                value["difference"] = value["mean"] - paper[column.name]
    left = [place for place in cells if place.state not in ("quoted", "measured")]
    return {
        "name": row.name,
        "label": row.label,
        "paper": paper,
        "ours": ours,
        "seeds": [{"seed": c.place.seed, "state": c.state, "said": c.said} for c in cells],
        "commands": [command for c in left for command in c.place.commands()],
        "seconds_left": _total([seconds_left(c, every) for c in left]),
        "cost": _cost(left[0]) if left and not mini else None,
    }


def _cost(cells: Cells) -> str | None:
    """What training a seed is expected to take on the paper's hardware, derived."""
    if cells.place.recipe is None or cells.state in ("trained", "measured"):
        return None
    return plan(cells.place.recipe).get("on the paper's hardware")


def _value(found: list[tuple[int, dict[str, Any]]], unit: str) -> dict[str, Any] | None:
    """The mean over seeds; its error is the spread between them, or, of a single one, that of the measurement."""
    seeds = []
    for seed, result in found:
        ((protocol, bound),) = result["bounds"].items()
        error = bound[f"{unit}_error"] or 0.0
        seeds.append(
            {"seed": seed, "value": bound[unit], "error": error, "protocol": protocol, "step": result.get("step")}
        )
    values = [entry["value"] for entry in seeds]
    mean = math.fsum(values) / len(values)
    spread = None
    if len(values) > 1:
        spread = math.sqrt(math.fsum((v - mean) ** 2 for v in values) / (len(values) - 1))
    return {"mean": mean, "error": seeds[0]["error"] if spread is None else spread, "spread": spread, "seeds": seeds}


def _order(table: Table, rows: Sequence[dict[str, Any]], column: str) -> list[dict[str, Any]]:
    """For each pair of which the paper finds the first lower, whether ours are, where both were measured."""
    ours = {row["name"]: row["ours"].get(column) for row in rows}
    found = []
    for low, high in table.order:
        a, b = ours.get(low), ours.get(high)
        if a and b:
            gap, error = b["mean"] - a["mean"], math.hypot(a["error"], b["error"])
            found.append({"lower": low, "higher": high, "gap": gap, "error": error, "holds": gap > 0})
    return found


def _total(values: Sequence[float | None]) -> float | None:
    return None if any(value is None for value in values) else math.fsum(values)


def markdown(found: dict[str, Any]) -> str:
    """The same as a Markdown table."""
    names = [column["name"] for column in found["columns"]]
    heads = ["model", *(f"{name}: paper" for name in _papers(found)), *(f"{name}: ours" for name in names)]
    lines = [f"| {' | '.join(heads)} |", f"|{'---|' * len(heads)}"]
    for row in found["rows"]:
        cells = [row["label"], *(_plain(row["paper"].get(name)) for name in _papers(found))]
        cells += [_ours(row, name) for name in names]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _papers(found: dict[str, Any]) -> list[str]:
    """The columns of the paper that some row has a value for."""
    return list(dict.fromkeys(name for row in found["rows"] for name in row["paper"]))


def _ours(row: dict[str, Any], name: str) -> str:
    if value := row["ours"].get(name):
        return f"{value['mean']:.3f} ± {value['error']:.3f}"
    return row["seeds"][0]["said"] or row["seeds"][0]["state"]


def _plain(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"
