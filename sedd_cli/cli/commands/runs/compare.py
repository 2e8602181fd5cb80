"""`sedd compare`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sedd_cli.cli import options as o
from sedd_cli.cli.outcome import output
from sedd_cli.cli.view.runs import comparison_tables, draw_comparison
from sedd_cli.cli.view.view import View
from sedd_cli.errors import RequestError
from sedd_cli.system.software import recorded


def compare(
    runs: Annotated[
        list[Path], typer.Argument(metavar="RUN", help="Folders of two to six runs, or names under ./runs.")
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", parser=o.file_name, help="Also write the curves as FILE.png, or all of it as FILE.html."
        ),
    ] = None,
    html: Annotated[
        Path | None, typer.Option(metavar="FILE", parser=o.file_name, help="Also write all of it as a page.")
    ] = None,
    json: o.Json = False,
    quiet: o.Quiet = False,
) -> None:
    """Compare runs: how their recipes differ, what they reach, whether that differs, and their learning curves.

    Likelihoods are those that the runs hold (`sedd eval` adds others), for each text the one of the last step. Two are
    compared by document where both runs kept the likelihood of each, so that the choice of text counts, and else by
    Welch's t-test on their Monte-Carlo errors; the test is named.

    Example: sedd compare runs/quickstart runs/longer --out curves.png
    """
    from sedd_cli.checkpoints.run_directory import find_run
    from sedd_cli.cli.commands.runs.page import comparison_page
    from sedd_cli.cli.inputs import check_written
    from sedd_cli.system.files import is_stream, write_whole
    from sedd_cli.system.plotting import save
    from sedd_cli.training.runs.compare import compare_runs
    from sedd_cli.training.runs.figure import curves_figure

    if out is not None and out.suffix.lower() not in (".png", ".html") and not is_stream(out):
        raise RequestError(f"--out: a name that ends in .png or .html is needed, found {out}")
    if html is not None and html.suffix.lower() not in (".html", ".htm") and not is_stream(html):
        raise RequestError(f"--html: a name that ends in .html is needed, found {html}; --out FILE.png writes .png")
    view, runs = View(json, quiet), [find_run(run) for run in runs]
    wanted = {"--out": out, "--html": html}
    check_written(wanted, {"RUN": runs})
    found = compare_runs(runs)
    if any(wanted.values()) and not any(curve.raw for curve in found.curves):
        raise RequestError("none of these runs has metrics yet, there is nothing to plot")
    output.result = found.to_dict()
    for option, path in wanted.items():
        if path is None:
            continue
        if option == "--html" or path.suffix.lower() == ".html":
            write_whole(path, comparison_page(found))
            output.stored = True  # tables, verdicts and curves; a figure holds the curves alone
        else:
            save(curves_figure(found), path)
    for table in comparison_tables(found, view.console.width):
        view.result(table)
    if view.shows_result:
        draw_comparison(view.console, found)
    document = recorded(found.to_dict())
    for option, path in wanted.items():
        if path is not None:
            document[option.removeprefix("--")] = str(path)
            view.say(f"wrote {path}")
    view.document(document)
