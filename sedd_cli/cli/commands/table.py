"""`sedd table`."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sedd_cli.cli import options as o
from sedd_cli.cli.choose import require_one_process
from sedd_cli.cli.outcome import continues, output
from sedd_cli.cli.view.view import View
from sedd_cli.errors import RequestError, WorkError
from sedd_cli.system.software import recorded

if TYPE_CHECKING:
    from sedd_cli.tables.definition import Table
    from sedd_cli.tables.row_run import RowRun
    from sedd_cli.tables.run import RunOptions, RunResult, UnfinishedRow

RUNS = Path("runs", "tables")
UNITS = {"s": 1, "m": 60, "h": 3600}


def table(
    name: Annotated[
        str | None,
        typer.Argument(metavar="NAME", help="1 to 5, figure1, figure2 of the paper, or ablations. Without: list them."),
    ] = None,
    run: Annotated[
        list[str] | None, typer.Option("--run", metavar="ROW", help="Train and measure this row; `all`: every row.")
    ] = None,
    mini: Annotated[bool, typer.Option("--mini", help="Laptop size: small networks, a small text.")] = False,
    seeds: Annotated[int, typer.Option(metavar="INT", help="Number of seeds per row.")] = 1,
    runs: Annotated[Path, typer.Option(metavar="FOLDER", help="Folder of the runs.")] = RUNS,
    budget: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="With --run: start only what is expected to end in time (30m, 8h)."),
    ] = None,
    rel_error: Annotated[
        float | None,
        typer.Option(metavar="FLOAT", help="With --run: relative error of the bounds; default: 0.005."),
    ] = None,
    plot: Annotated[
        Path | None,
        typer.Option(metavar="FILE", parser=o.file_name, help="Write a PNG of the learning curves, or of the figure."),
    ] = None,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print the table as Markdown.")] = False,
    out: o.OutDocument = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check the request, run nothing.")] = False,
    device: o.Device = "auto",
    json: o.Json = False,
    quiet: o.Quiet = False,
) -> None:
    """Show a table of the paper beside our values, and the commands for missing ones.

    Of a small table (--mini) the results that come with the package are shown until there are own ones. Rows are
    trained and measured with --run only; after an interruption the same command continues.

    Example: sedd table 2 --mini --run all
    """
    from sedd_cli.cli.inputs import check_png, check_written
    from sedd_cli.cli.view.tables import show
    from sedd_cli.tables.definition import load_table
    from sedd_cli.tables.markdown import markdown as as_markdown
    from sedd_cli.tables.row_run import row_runs_of
    from sedd_cli.tables.run import RunOptions, RunResult
    from sedd_cli.tables.shipped import with_shipped
    from sedd_cli.tables.summary import summary

    view = View(json, quiet)
    if markdown and json:
        raise RequestError("--markdown and --json are two ways to print the table: name one")
    if name is None:
        changed = (seeds != 1, runs != RUNS, device != "auto", rel_error is not None)
        if any((run, mini, budget, plot, markdown, out, dry_run, *changed)):
            raise RequestError("which table? As in: sedd table 2 --mini; sedd table lists them")
        return _list(view)
    found = load_table(name)
    if seeds < 1:
        raise RequestError(f"--seeds must be at least 1, found {seeds}")
    if rel_error is not None and not 0 < rel_error < math.inf:
        raise RequestError(f"--rel-error must be positive, found {rel_error}")
    if not run:
        _refuse({"--budget": budget, "--rel-error": rel_error, "--device": None if device == "auto" else device})
    places = row_runs_of(found, mini, seeds, runs)
    folders = {folder for of in places.values() for place in of for folder in (place.folder, place.trained.folder)}
    check_png(plot)
    check_written({"--plot": plot, "--out": out}, {"--runs": folders})
    asked = _asked(found, places, run or [])
    options = RunOptions(device, _seconds(budget), rel_error or RunOptions.rel_error, notify=view.say)
    made = _run(view, asked, options) if asked and not dry_run else RunResult((), ())
    shown = summary(found, places, mini)
    document = recorded(shown.to_dict() | made.to_dict())
    if others := with_shipped(shown):
        document["shipped"] = others.to_dict()
    output.result = document
    if others:
        said = "these come with the package (recipes/mini/README.md in its repository)"
        view.say(f"{runs} holds no results of this table: {said}", "bold")
    if markdown:
        output.write(as_markdown(others or shown) + "\n")
    else:
        show(view, others or shown, others is not None)
    view.write(document, out)
    if plot is not None:
        from sedd_cli.tables.plot import plot as draw

        draw(shown, [p for of in places.values() for p in of], plot)
        view.say(f"wrote {plot}", "dim")
    error = _error(made.failed, len(asked))
    view.document(document, error)
    if error:
        raise error


def _refuse(of_runs: dict[str, object]) -> None:
    """RequestError for an option of --run that is given without it."""
    for option, value in of_runs.items():
        if value is not None:
            raise RequestError(f"{option} goes with --run")


def _list(view: View) -> None:
    """All tables with their titles."""
    from sedd_cli.tables.definition import load_table, shipped_tables

    listed = [load_table(known) for known in shipped_tables()]
    for one in listed:
        small = " (also --mini)" if one.mini else ""
        view.result(f"sedd table {one.name.removeprefix('table'):8} {one.title}{small}")
    view.document([{"name": one.name, "title": one.title, "mini": one.mini is not None} for one in listed])


def _error(failed: Sequence[UnfinishedRow], asked: int) -> Exception | None:
    """The error with which the command ends if rows failed."""
    if not failed:
        return None
    kind = RequestError if all(f.code == 2 for f in failed) else WorkError
    seeds: dict[tuple[str, str], list[int]] = {}
    for row in failed:
        seeds.setdefault((row.row, row.why), []).append(row.seed)
    each = (f"{row}, seed{'s' * (len(of) > 1)} {', '.join(map(str, of))}: {why}" for (row, why), of in seeds.items())
    return kind(f"{len(failed)} of {asked} failed: " + "; ".join(each))


def _asked(found: Table, places: dict[str, list[RowRun]], run: list[str]) -> list[RowRun]:
    """The runs to make, ordered by seed; RequestError for rows that cannot be run."""
    rows = [found.row(name).name for name in run if name != "all"]
    names = list(places) if "all" in run else rows
    for name in names:
        if name not in places:
            raise RequestError(f"{found.name} has the row {name!r} at full size only")
        if "all" not in run and places[name][0].source is None:
            raise RequestError(f"the row {name!r} is quoted from the paper, not run")
    return sorted((place for name in names for place in places[name]), key=lambda place: place.seed)


def _run(view: View, asked: list[RowRun], options: RunOptions) -> RunResult:
    """Make the runs; returns what is left and what failed, with reasons."""
    from sedd_cli.tables.run import make

    require_one_process("table --run")
    result = view.run(make(asked, options), partial(continues, "what is finished is kept"))
    for entry in result.left:
        view.say(f"left: {entry.row}, seed {entry.seed}: {entry.why}", "yellow")
    return result


def _seconds(text: str | None) -> float | None:
    if text is None:
        return None
    found = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)([smh])", text)
    if not found or float(found[1]) == 0:
        raise RequestError(f"--budget is a number above 0 and s, m or h, such as 30m; found {text!r}")
    return float(found[1]) * UNITS[found[2]]
