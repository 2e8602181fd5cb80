"""`sedd status`."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

import typer

from sedd_cli.cli import options as o
from sedd_cli.cli.next_commands import command_line, say_commands
from sedd_cli.cli.outcome import output
from sedd_cli.cli.view.status import draw_status
from sedd_cli.cli.view.view import View
from sedd_cli.errors import RequestError
from sedd_cli.system.software import recorded

#: The beginning of a PNG.
PNG = b"\x89PNG\r\n\x1a\n"


def status(
    run: Annotated[
        Path | None,
        typer.Argument(
            metavar="RUN",
            help="The folder of a run, or its name under ./runs; default: the newest.",
            show_default=False,
        ),
    ] = None,
    plot: Annotated[bool, typer.Option("--plot", help="Also write RUN/curve.png.")] = False,
    json: o.Json = False,
    quiet: o.Quiet = False,
) -> None:
    """Show the learning curve and the latest metrics of a run, during training or afterwards.

    Example: sedd status runs/quickstart --plot
    """
    from sedd_cli.checkpoints.run_directory import RUNS, find_run, is_run, newest_run
    from sedd_cli.cli.inputs import check_written
    from sedd_cli.recipe.outside import imports_of
    from sedd_cli.system.documents import read_yaml
    from sedd_cli.training.runs.figure import plot_status
    from sedd_cli.training.status import status as read

    view, run = View(json, quiet), find_run(run) if run else newest_run(RUNS)
    if run is None:
        raise RequestError(f"no run under ./{RUNS}: name its folder (sedd train quickstart makes one)")
    found = read(run)
    document = dataclasses.asdict(found)
    if plot:
        if (run / "curve.png").exists() and not is_run(run):
            raise RequestError(f"{run} is not a run made here: its curve.png is not replaced")
        check_written({"--plot": run / "curve.png"}, {"RUN": run})
        _check_own_png(run / "curve.png")
        output.result = document
        plot_status(found, run / "curve.png")
        document["png"] = str(run / "curve.png")
    if view.shows_result:
        draw_status(view.console, found)
    if found.state in ("stopped", "failed"):
        words = ["train", run, *imports_of(read_yaml(run / "recipe.yaml"))]
        document["resume"] = command_line(words)
        say_commands(view, [words], "Go on with it:")
    if plot:
        view.say(f"wrote {document['png']}")
    view.document(recorded(document))


def _check_own_png(out: Path) -> None:
    """RequestError where a file whose name nobody has typed exists, perhaps through a link, and is no PNG."""
    from sedd_cli.system.files import is_stream

    if is_stream(out):
        raise RequestError(f"cannot write {out}: it is no regular file (--plot)")
    if out.is_file():
        with out.open("rb") as file:
            if file.read(len(PNG)) not in (PNG, b""):
                raise RequestError(f"{out} is no PNG and is not replaced (--plot): move it elsewhere")
