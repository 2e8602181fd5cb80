"""`sedd table`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sedd_cli.cli import options as o
from sedd_cli.cli.view.view import View
from sedd_cli.errors import RequestError, WorkError

if TYPE_CHECKING:
    from sedd_cli.tables.definition import Table
    from sedd_cli.tables.row_run import RowRun
    from sedd_cli.tables.run import RunOptions

UNITS = {"s": 1, "m": 60, "h": 3600}


def table(
    name: Annotated[
        str | None, typer.Argument(help="1 to 5, figure1, figure2, as in the paper. Without it: those there are.")
    ] = None,
    run: Annotated[
        list[str] | None, typer.Option("--run", metavar="ROW", help="Train and measure this row; all: every row.")
    ] = None,
    mini: Annotated[bool, typer.Option("--mini", help="At laptop size: small networks, a small text.")] = False,
    seeds: Annotated[int, typer.Option(help="Seeds 0, 1 … of each row.")] = 1,
    runs: Annotated[Path, typer.Option(help="The folder of the runs.")] = Path("runs", "tables"),
    budget: Annotated[
        str | None, typer.Option(help="With --run: begin nothing that is known not to end in this: 30m, 8h.")
    ] = None,
    rel_error: Annotated[float, typer.Option(help="With --run: relative error of what is to be measured.")] = 0.005,
    plot: Annotated[Path | None, typer.Option(help="Write a PNG here: learning curves, or the figure.")] = None,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print it as Markdown.")] = False,
    out: Annotated[Path | None, typer.Option(help="Also write everything here, as JSON.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check what is asked, run nothing.")] = False,
    device: o.Device = "auto",
    json: o.Json = False,
    quiet: o.Quiet = False,
) -> None:
    """A table of the paper: its values beside ours, what is missing, and the commands for the rest.

    Nothing is run unless --run asks for it; what was interrupted is taken up again.

    Example: sedd table 2 --mini --run all
    """
    from sedd_cli.cli.view.tables import show
    from sedd_cli.system.outputs import check_outputs
    from sedd_cli.tables.definition import load_table, shipped_tables
    from sedd_cli.tables.markdown import markdown as as_markdown
    from sedd_cli.tables.row_run import row_runs_of
    from sedd_cli.tables.run import RunOptions
    from sedd_cli.tables.summary import summary

    view = View(json, quiet)
    if name is None:
        view.document(sorted(shipped_tables()))
        for known in shipped_tables():
            listed = load_table(known)
            small = " (also --mini)" if listed.mini else ""
            view.say(f"sedd table {known.removeprefix('table'):8} {listed.title}{small}")
        return
    found = load_table(name)
    if seeds < 1:
        raise RequestError(f"--seeds must be at least 1, found {seeds}")
    if budget is not None and not run:
        raise RequestError("--budget goes with --run")
    places = row_runs_of(found, mini, seeds, runs)
    folders = {folder for of in places.values() for place in of for folder in (place.folder, place.trained.folder)}
    check_outputs({"--plot": plot, "--out": out}, {"--runs": folders})
    asked = _asked(found, places, run or [])
    options = RunOptions(device, _seconds(budget), rel_error, tell=view.say)
    made = _run(view, asked, options) if asked and not dry_run else {"left": [], "failed": []}
    shown = summary(found, places, mini)
    document = shown.to_dict() | made
    if markdown:
        typer.echo(as_markdown(shown), err=json)
    else:
        show(view, shown)
    if out is not None:
        import json as library

        from sedd_cli.system.files import write_whole

        write_whole(out, library.dumps(document, indent=1, ensure_ascii=False) + "\n")
        view.say(f"wrote {out}", "dim")
    view.document(document)
    if plot is not None:
        from sedd_cli.tables.plot import plot as draw

        draw(shown, [p for of in places.values() for p in of], plot)
        view.say(f"wrote {plot}", "dim")
    if failed := made["failed"]:
        kind = RequestError if all(f["code"] == 2 for f in failed) else WorkError
        names = ", ".join(f"{f['row']}, seed {f['seed']}" for f in failed)
        raise kind(f"{len(failed)} of {len(asked)} failed: {names}; the reasons stand above")


def _asked(found: Table, places: dict[str, list[RowRun]], run: list[str]) -> list[RowRun]:
    """The places that are asked for, first one seed of each; RequestError for rows that cannot be run."""
    names = list(places) if "all" in run else [found.row(name).name for name in run]
    for name in names:
        if name not in places:
            raise RequestError(f"{found.name} has the row {name!r} at full size only")
        if "all" not in run and places[name][0].source is None:
            raise RequestError(f"the row {name!r} is quoted from the paper, not run")
    return sorted((place for name in names for place in places[name]), key=lambda place: place.seed)


def _run(view: View, asked: list[RowRun], options: RunOptions) -> dict[str, Any]:
    """Make what is asked for; what is left, what failed, and why."""
    from sedd_cli.system.events import Finished
    from sedd_cli.tables.run import make

    events = view.follow(make(asked, options), "stopped; the same command goes on where it was")
    result = next(event.result for event in events if isinstance(event, Finished))
    for entry in result["left"]:
        view.say(f"left: {entry['row']}, seed {entry['seed']}: {entry['why']}", "yellow")
    return result


def _seconds(text: str | None) -> float | None:
    if text is None:
        return None
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smh])", text)
    if not found or float(found[1]) == 0:
        raise RequestError(f"--budget is a number above 0 and s, m or h, such as 30m; found {text!r}")
    return float(found[1]) * UNITS[found[2]]
