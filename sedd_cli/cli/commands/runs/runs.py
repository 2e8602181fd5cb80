"""`sedd runs`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sedd_cli.cli import options as o
from sedd_cli.cli.view.runs import runs_list
from sedd_cli.cli.view.view import View


def runs(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="A folder that holds runs.")] = Path("runs"),
    json: o.Json = False,
    quiet: o.Quiet = False,
) -> None:
    """List runs: what differs in their recipes, steps, the last stored likelihood, size, state and age.

    A recipe is compared with the shipped one of its name, or else with the nearest older run of the list. The
    likelihood is the last one stored for the run's own text, or the last validation during the training.

    Example: sedd runs
    """
    from sedd_cli.training.runs.summary import list_runs

    view = View(json, quiet)
    found = list_runs(folder)
    if found:
        view.result(runs_list(found, view.console.width))
    else:
        view.say(f"no runs in {folder}; sedd train quickstart makes one", "yellow")
    view.document({"folder": str(folder), "runs": [one.to_dict() for one in found]})
