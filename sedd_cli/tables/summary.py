"""A table as plain data: the paper's values, ours with their errors, and whether the paper's order holds."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
from collections.abc import Iterator, Sequence
from typing import Any

from sedd_cli.recipe.build import plain
from sedd_cli.tables.cells import Cells, look, run_state
from sedd_cli.tables.column import Column, Mauve, Quality
from sedd_cli.tables.definition import Row, Table
from sedd_cli.tables.frontier import frontier
from sedd_cli.tables.measures import MEASURES
from sedd_cli.tables.row_run import RowRun
from sedd_cli.tables.run import measuring_seconds, run_seconds, spoken
from sedd_cli.training.cost import estimate_cost


def summary(table: Table, places: dict[str, list[RowRun]], mini: bool) -> dict[str, Any]:
    """Everything there is to show; places: row → one for each seed."""
    form = table.form(mini)
    cells = {name: [look(place) for place in of_row] for name, of_row in places.items()}
    every = [one for of_row in cells.values() for one in of_row]
    rows = [_row(row, cells[row.name], form.unit, mini, every) for row in table.rows if row.name in cells]
    numbers = form.unit != "text"
    return {
        "table": table.name,
        "title": table.title,
        "mini": mini,
        "unit": form.unit,
        "unit_at_full_size": table.unit,
        "columns": [plain(column) for column in form.columns],
        "rows": rows,
        "order": [e for column in form.columns for e in _order(table, rows, column)] if numbers else [],
        "frontier": frontier(rows, form.columns) if isinstance(form.columns[0], Quality) else [],
        "seeds": len(max(places.values(), key=len)),
        "more_seeds": _more_seeds(places),
        "warnings": [*_not_counted(every), *(line for column in form.columns for line in _mixed(every, column))],
    }


def _more_seeds(places: dict[str, list[RowRun]]) -> int:
    """How many seeds beyond those that are shown have results, of the row that has most."""
    found = 0
    for of_row in places.values():
        later = itertools.takewhile(
            lambda place: any(place.result_file(column).is_file() for column in place.columns),
            (dataclasses.replace(of_row[0], seed=seed) for seed in itertools.count(of_row[-1].seed + 1)),
        )
        found = max(found, len(list(later)))
    return found


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
        "left_to_right": row.how.left_to_right,
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
    seconds = [measuring_seconds(column, cells.place.mini, every) for column in cells.left or cells.place.columns]
    cost = None if None in seconds else f"about {spoken(sum(seconds))} here"
    yield {"command": cells.place.measure_command(), "cost": cost}


def _cost(place: RowRun, every: Sequence[Cells]) -> str | None:
    """What the rest of the training is expected to take: here, by other rows, or on the paper's hardware, derived."""
    if (seconds := run_seconds(place, [one.place for one in every])) is not None:
        return f"about {spoken(seconds)} here"
    return estimate_cost(place.recipe).to_dict().get("on the paper's hardware")


def _not_counted(every: Sequence[Cells]) -> Iterator[str]:
    """What is there and not counted, and why."""
    for one in every:
        for line in one.wrong:
            yield f"{one.place.label}, seed {one.place.seed}: {line}"


def _mixed(every: Sequence[Cells], column: Column) -> Iterator[str]:
    """Whether rows of a column were measured on texts that differ, though they have one name, or by other judges."""
    measured = (one.results[column.name] for one in every if column.name in one.results)
    common = {json.dumps(MEASURES[type(column)].common(result)) for result in measured}
    if len(common) > 1:
        yield f"{column.name}: {len(common)} different copies of the text, or judges, which do not compare"


def _value(found: list[tuple[int, dict[str, Any]]], column: Column, unit: str) -> dict[str, Any]:
    """The mean over seeds, and its error by their spread; of a single seed that of the measurement, which says nothing
    of how seeds differ. measure: how it was measured, where that is not as its column says."""
    seeds = []
    for seed, result in found:
        value = MEASURES[type(column)].value(result, column, unit)
        if value.texts is not None:
            return {"texts": value.texts}  # those of the first seed
        entry = {"seed": seed, "value": value.value, "error": value.error, "measure": value.how, "bound": value.bound}
        seeds.append(entry | {"step": result.get("step")})
    values = [entry["value"] for entry in seeds]
    mean, spread, error = math.fsum(values) / len(values), None, seeds[0]["error"]
    if len(values) > 1:
        spread = math.sqrt(math.fsum((v - mean) ** 2 for v in values) / (len(values) - 1))
        error = spread / math.sqrt(len(values))
    same = {"measure": seeds[0]["measure"], "bound": seeds[0]["bound"]}
    return {"mean": mean, "error": error, "spread": spread, **same, "seeds": seeds}


def _order(table: Table, rows: Sequence[dict[str, Any]], column: Column) -> Iterator[dict[str, Any]]:
    """For each pair of which the paper finds the first lower, whether ours are, where both were measured.

    The error of a MAUVE score is that of clustering alone, so that a single seed says nothing of an order.
    """
    found = {row["name"]: row for row in rows if column.name in row["ours"]}
    for low, high in table.order:
        if low in found and high in found:
            a, b = (found[name]["ours"][column.name] for name in (low, high))
            gap, error = b["mean"] - a["mean"], math.hypot(a["error"], b["error"])
            verdict = "not told apart" if abs(gap) < 2 * error else "holds" if gap > 0 else "does not hold"
            seeds = min(len(a["seeds"]), len(b["seeds"]))
            if isinstance(column, Mauve) and seeds < 2:
                verdict = "not to be told by one seed"
            labels = {"lower_label": found[low]["label"], "higher_label": found[high]["label"]}
            pair = {"column": column.name, "lower": low, "higher": high, **labels}
            yield pair | {"gap": gap, "error": error, "seeds": seeds, "verdict": verdict}


def digits(unit: str) -> int:
    """Decimals that our values are shown with."""
    return 1 if unit == "generative_perplexity" else 3


def samples_of(found: dict[str, Any]) -> str:
    """What the values of a figure are of."""
    column = found["columns"][0]
    judge = column["judge"]
    if not isinstance(judge, str):
        judge = f"an autoregressive run, seed {judge['seed']}"
    return f"{column['n']} samples of {column['length']} tokens, perplexity per token to {judge}"


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
        cells += [_ours(row, name, digits(found["unit"])) for name in names]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _ours(row: dict[str, Any], name: str, digits: int) -> str:
    if value := row["ours"].get(name):
        if "texts" in value:
            return _marked(value["texts"][0]).replace("|", "\\|").replace("\n", " ⏎ ")
        number = ("≤ " if value["bound"] else "") + f"{value['mean']:.{digits}f}"
        number += f" ± {value['error']:.{digits}f}" if value["error"] else ""
        many = [f"{len(value['seeds'])} seeds"] if len(value["seeds"]) > 1 else []
        told = ", ".join([*([value["measure"]] if value["measure"] else []), *many])
        return number + (f" ({told})" if told else "")
    return "" if row["ours"] else row["seeds"][0]["said"] or row["seeds"][0]["state"]


def _marked(one: dict[str, Any]) -> str:
    """A text, what was given in bold."""
    text, at, parts = one["text"] or "", 0, []
    for start, end in one["given"]:
        parts += [text[at:start], f"**{text[start:end]}**"]
        at = end
    return "".join([*parts, text[at:]])


def printed(value: float | None) -> str:
    """A value of the paper, to two digits or as many as it gives."""
    return "" if value is None else f"{value:.2f}" if round(value, 2) == value else f"{value:g}"
