"""A run that `sedd train` finds: what is named, whether there is anything left to train, and what to do next."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from sedd_cli.cli.next_commands import after_training
from sedd_cli.cli.view.status import draw_status
from sedd_cli.cli.view.view import View
from sedd_cli.errors import RequestError, listed, nearest_name, shell_command
from sedd_cli.system.software import recorded

if TYPE_CHECKING:
    from sedd_cli.recipe import Recipe
    from sedd_cli.training.status import Status
    from sedd_cli.training.train import TrainResult


def run_named(name: str) -> Path | None:
    """The run that the argument of `sedd train` names; None for a file and the name of a shipped recipe.

    Raises:
        RequestError: It is a folder, but no run, or one that has not begun; or it is nothing at all.
    """
    from sedd_cli.checkpoints.run_directory import find_run, is_run, run_names
    from sedd_cli.data.corpora import is_own_text
    from sedd_cli.recipe import shipped

    folder = find_run(name)
    if name in shipped() or Path(name).is_file():
        return None
    if not folder.exists():
        if is_own_text(name):
            train = shell_command(["sedd", "train", "quickstart", f"data.corpus={name}"])
            raise RequestError(f"{name} is a prepared text, not a recipe: {train}")
        known, runs = {Path(one).stem: one for one in shipped()}, run_names()
        meant = nearest_name(Path(name).stem, [*runs, *known, *shipped()])
        hint = f"; did you mean {known.get(meant, meant)!r}?" if meant else ""
        own = f"; runs: {listed(runs)}" if runs else ""
        raise RequestError(
            f"no file {name}, and no shipped recipe or run of that name{hint or '.'} Recipes: {listed(shipped())}{own}"
        )
    if not folder.is_dir():
        return None
    if not is_run(folder):
        raise RequestError(
            f"{name} is a folder and not a run: name a run, a YAML file or one of {', '.join(shipped())}"
        )
    if not (folder / "recipe.yaml").is_file():
        raise RequestError(f"{name} is a run that has not begun, without a recipe.yaml: start it with its recipe")
    return folder


def finished_run(run: Path, recipe: Recipe, report: bool) -> tuple[TrainResult, Status, Recipe] | None:
    """What a run holds in which this recipe is trained to its end; None where there is something left to do.

    A report that is wanted and not stored yet is left to do.
    """
    from sedd_cli.recipe import load_recipe
    from sedd_cli.training.report import stored_report
    from sedd_cli.training.status import status
    from sedd_cli.training.train import TrainResult

    found = status(run)
    if found.state != "finished" or load_recipe(run / "recipe.yaml") != recipe:
        return None
    stored, weights = stored_report(run, recipe.report.split, found.steps), run / "ema.safetensors"
    if not weights.is_file() or (report and stored is None):
        return None
    skipped = found.train[-1]["skipped"] if found.train else 0
    return TrainResult(run, found.steps, True, skipped, weights, stored), found, recipe


def draw_finished(view: View, result: TrainResult, found: Status, recipe: Recipe) -> None:
    """Say that a run is finished, show what it reached, and what can follow."""
    view.say(f"{result.run} is finished: there is nothing left to train", "bold")
    if not view.quiet:
        draw_status(view.console, found)
    after_training(view, result.run, recipe)
    view.document(recorded(result.to_dict()))
