"""`sedd table`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table as Grid

from sedd_cli.cli import options as o
from sedd_cli.cli.output import check_writable
from sedd_cli.cli.results import plus_minus
from sedd_cli.cli.view import View
from sedd_cli.errors import RequestError

UNITS = {"s": 1, "m": 60, "h": 3600}


def table(
    name: Annotated[str | None, typer.Argument(help="1, 2, 3: the paper's table. Without it: those there are.")] = None,
    run: Annotated[
        list[str] | None, typer.Option("--run", metavar="ROW", help="Train and measure this row; all: every row.")
    ] = None,
    mini: Annotated[bool, typer.Option("--mini", help="At laptop size: small networks, a small text.")] = False,
    seeds: Annotated[int, typer.Option(help="Seeds 0, 1 … of each row.")] = 1,
    runs: Annotated[Path, typer.Option(help="The folder of the runs.")] = Path("runs", "tables"),
    budget: Annotated[
        str | None, typer.Option(help="With --run: begin no training that would not end in this: 30m, 8h.")
    ] = None,
    rel_error: Annotated[float, typer.Option(help="With --run: relative error of a measurement.")] = 0.005,
    plot: Annotated[Path | None, typer.Option(help="Write the rows' learning curves here, a PNG.")] = None,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print it as Markdown.")] = False,
    out: Annotated[Path | None, typer.Option(help="Also write everything here, as JSON.")] = None,
    device: o.Device = "auto",
    json: o.Json = False,
    quiet: o.Quiet = False,
) -> None:
    """A table of the paper: its values beside ours, what is missing, and the commands for the rest.

    Nothing is run unless --run asks for it; what was interrupted is taken up again.

    Example: sedd table 2 --mini --run all
    """
    from sedd_cli.recipe.table import load_table, shipped_tables
    from sedd_cli.runs.table.cells import Place
    from sedd_cli.runs.table.summary import markdown as as_markdown
    from sedd_cli.runs.table.summary import summary

    view = View(json, quiet)
    if name is None:
        view.document(sorted(shipped_tables()))
        for known in shipped_tables():
            view.say(f"sedd table {known.removeprefix('table')}   {load_table(known).title}")
        return
    found = load_table(name)
    if mini and found.mini is None:
        raise RequestError(f"{found.name} has no small form")
    if seeds < 1:
        raise RequestError(f"--seeds must be at least 1, found {seeds}")
    if budget is not None and not run:
        raise RequestError("--budget goes with --run")
    for path in (plot, out):
        if path is not None:
            check_writable(path)
    rows = [row for row in found.rows if not mini or row.mini is not None]
    places = {row.name: [Place(found, row, mini, seed, runs) for seed in range(seeds)] for row in rows}
    # a model that is loaded is the same for every seed
    places = {name: of if of[0].training else of[:1] for name, of in places.items()}
    left = _run(view, places, found, run, budget, rel_error, device) if run else []
    document = summary(found, places, mini)
    if left:
        document["left"] = left
    if markdown:
        typer.echo(as_markdown(document), err=json)
    else:
        _show(view, document)
    if plot is not None:
        from sedd_cli.runs.table.plot import plot as draw

        draw(
            found.title if not mini else f"{found.title}, at laptop size",
            [p for of in places.values() for p in of],
            plot,
        )
        view.say(f"wrote {plot}", "dim")
    if out is not None:
        import json as library

        from sedd_cli.text.atomic import write_whole

        write_whole(out, library.dumps(document, indent=1, ensure_ascii=False) + "\n")
        view.say(f"wrote {out}", "dim")
    view.document(document)


def _run(
    view: View, places: dict[str, Any], found: Any, asked: list[str], budget: str | None, rel_error: float, device: str
) -> list[Any]:
    """Make the rows that are asked for, first one seed of each; what is left, and why."""
    from sedd_cli.runs.events import Finished
    from sedd_cli.runs.table.job import RunOptions, make

    names = list(places) if "all" in asked else [found.row(name).name for name in asked]
    for name in names:
        if name not in places:
            raise RequestError(f"{found.name} has the row {name!r} at full size only")
        if "all" not in asked and places[name][0].source is None:
            raise RequestError(f"the row {name!r} is quoted from the paper, not run")
    order = sorted((place for name in names for place in places[name]), key=lambda place: place.seed)
    options = RunOptions(device, _seconds(budget), rel_error, tell=view.say)
    events = view.follow(make(order, options), "stopped; the same command goes on where it was")
    left = next(event.result["left"] for event in events if isinstance(event, Finished))
    for entry in left:
        view.say(f"left: {entry['row']}, seed {entry['seed']}: {entry['why']}", "yellow")
    return left


def _seconds(text: str | None) -> float | None:
    if text is None:
        return None
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smh])", text)
    if not found:
        raise RequestError(f"--budget is a number and s, m or h, such as 30m; found {text!r}")
    return float(found[1]) * UNITS[found[2]]


def _show(view: View, found: dict[str, Any]) -> None:
    title = found["title"] + (f"; here {found['columns'][0]['dataset']}, at laptop size" if found["mini"] else "")
    grid = Grid(title=title, title_justify="left", header_style="bold")
    grid.add_column("model")
    papers = list(dict.fromkeys(name for row in found["rows"] for name in row["paper"]))
    for name in papers:
        grid.add_column(f"{name}, paper" if found["mini"] else f"{name}", justify="right")
    for column in found["columns"]:
        grid.add_column(f"{column['name']}, ours", justify="right")
    for row in found["rows"]:
        cells = [f"{row['paper'][name]:.2f}" if name in row["paper"] else "" for name in papers]
        grid.add_row(row["label"], *cells, *(_cell(row, column["name"]) for column in found["columns"]))
    view.result(grid)
    for entry in found["order"]:
        gap = plus_minus(entry["gap"], entry["error"], 3)
        where = f" on {entry['column']}" if len(found["columns"]) > 1 else ""
        style = "" if entry["verdict"] == "holds" else "yellow"
        view.say(f"{entry['lower']} below {entry['higher']}{where}: {entry['verdict']}, by {gap}", style)
    for line in found["warnings"]:
        view.say(f"warning: {line}", "yellow")
    if commands := [entry for row in found["rows"] for entry in row["commands"]]:
        view.say("For the rest:")
        for entry in commands:
            view.say(f"  {entry['command']}" + (f"   # {entry['cost']}" if entry["cost"] else ""), "cyan")


def _cell(row: dict[str, Any], name: str) -> str:
    value = row["ours"].get(name)
    if value is None:
        return row["seeds"][0]["said"]
    text = plus_minus(value["mean"], value["error"], 3)
    many = f" ({len(value['seeds'])} seeds)" if len(value["seeds"]) > 1 else ""
    change = f" ({value['difference']:+.2f})" if "difference" in value else ""
    return text + change + many + (f", {value['measure']}" if value["measure"] else "")
