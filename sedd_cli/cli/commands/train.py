"""`sedd train`."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sedd_cli.cli import options as o
from sedd_cli.cli.existing_run import draw_finished, finished_run, run_named
from sedd_cli.cli.next_commands import after_training, say_result
from sedd_cli.cli.outcome import output
from sedd_cli.cli.processes import launch, launched, without_option
from sedd_cli.cli.view.view import View
from sedd_cli.errors import RequestError, printable, shell_command, shell_word
from sedd_cli.system.process import at_words
from sedd_cli.system.software import recorded

if TYPE_CHECKING:
    from sedd_cli.recipe import Recipe

_RUN, _SPEED, _RECORDS = "The run", "Machine and speed", "Records beside the run"
#: Shown after Ctrl-C before the first step, and after a second Ctrl-C.
RESUME = "interrupted: the same command continues from the last checkpoint, or from the start where there is none"
RESUME_FRESH = (
    "interrupted: the same command starts another run; without --fresh and with the folder of this one as --run-dir it "
    "continues from its last checkpoint"
)


def train(
    recipe: Annotated[
        str | None, typer.Argument(metavar="RECIPE", help="A YAML file, the name of a shipped recipe, or a run.")
    ] = None,
    overrides: Annotated[
        list[str] | None, typer.Argument(help="Changes of recipe values, such as train.steps=500.", metavar="KEY=VALUE")
    ] = None,
    run_dir: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Default: runs/NAME, with the name of the recipe, or of a text that an override names.",
            rich_help_panel=_RUN,
        ),
    ] = None,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Start a new run in a new folder.", rich_help_panel=_RUN)
    ] = False,
    extend: Annotated[
        bool,
        typer.Option(
            "--extend",
            help="Go on though the rate has decayed: with that of the longer schedule.",
            rich_help_panel=_RUN,
        ),
    ] = False,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Print the resolved recipe, its cost and its time here.", rich_help_panel=_RUN),
    ] = False,
    report: Annotated[bool, typer.Option(help="Evaluate and sample after training.", rich_help_panel=_RUN)] = True,
    autotune: Annotated[
        bool,
        typer.Option(
            "--autotune", help="Measure which train.micro_batch is fastest and use it.", rich_help_panel=_SPEED
        ),
    ] = False,
    tensorboard: Annotated[
        bool, typer.Option("--tensorboard", help="Also write event files to RUN/tensorboard.", rich_help_panel=_RECORDS)
    ] = False,
    wandb: Annotated[bool, typer.Option("--wandb", help="Also log to wandb.", rich_help_panel=_RECORDS)] = False,
    processes: Annotated[
        int,
        typer.Option(
            metavar="INT", min=1, help="Train in so many processes of this machine, one a GPU.", rich_help_panel=_SPEED
        ),
    ] = 1,
    device: o.Device = "auto",
    json: o.Json = False,
    quiet: o.Quiet = False,
) -> None:
    """Train a model from a recipe, or resume a run.

    An existing run continues from its latest checkpoint; `sedd train RUN` resumes it, or says how it ended. Ctrl-C
    finishes the step, saves and stops. On many GPUs of one machine: --processes 8; on several machines: torchrun (see
    sedd guide scale).

    With more train.steps a run goes on: where its rate is constant, at the end or, with train.decay, from before the
    decay, as if it had been that long from the start. Where the rate has decayed, --extend goes on from the end.

    Example: sedd train recipes/quickstart.yaml train.steps=500
    """
    from sedd_cli.recipe import load_recipe, shipped

    view = View(json, quiet)
    if recipe is None:
        raise RequestError(f"which recipe? A YAML file, a run, or one of {', '.join(shipped())}")
    if processes > 1:
        _check_processes(dry_run)
    own = run_named(recipe)
    resolved = load_recipe(own / "recipe.yaml" if own else recipe, overrides or [])
    if dry_run:
        cost = _plan(resolved, report, device)
        view.document({"recipe": resolved.to_data(), "plan": cost})
        if not json:
            text = _spelled(resolved) + "\n"
            output.write(printable(text) if view.console.is_terminal else text)
            for key, value in cost.items():
                output.write(at_words(f"{key:>24}  {value}", sys.stdout, 26) + "\n")
        return
    if processes > 1:
        output.interrupted = ""
        code = launch(sys.argv[1:], processes, output.debug)
        output.document = True  # of the first process
        raise typer.Exit(code)
    from sedd_cli.training.runs.folder import default_run
    from sedd_cli.training.train import TrainOptions
    from sedd_cli.training.train import train as job

    output.stored = True  # in the run directory
    folder = run_dir or own or default_run(recipe, resolved)
    if run_dir is None and own is None and folder.name != resolved.name:
        view.say(f"the run is named after its text: {folder} (--run-dir names another folder)")
    if own is not None and own == folder and not fresh and (finished := finished_run(own, resolved, report)):
        draw_finished(view, *finished)
        return
    trackers = tuple(name for name, asked in (("tensorboard", tensorboard), ("wandb", wandb)) if asked)
    options = TrainOptions(folder, device, fresh, report, autotune, trackers, view.say, extend)
    result = view.run(job(resolved, options), RESUME_FRESH if fresh else RESUME)
    document = result.to_dict()
    if not result.finished:
        document |= _say_how_to_resume(view, result.run, fresh)
    view.document(recorded(document))
    if result.interrupted:
        output.interrupted = ""  # the lines above have said what was saved
        raise KeyboardInterrupt
    if result.finished:
        say_result(view, result, resolved.report.every)
        after_training(view, result.run, resolved)


def _check_processes(dry_run: bool) -> None:
    """RequestError where --processes has no meaning."""
    if launched():
        raise RequestError("--processes starts processes of its own: leave it out under torchrun (WORLD_SIZE is set)")
    if dry_run:
        raise RequestError("--dry-run measures one process: leave out --processes")


def _say_how_to_resume(view: View, run: Path, fresh: bool) -> dict[str, str]:
    """Tell how a run that has stopped goes on. The command for the JSON document, unless torchrun started this."""
    how = f"without --fresh and with {shell_word(run)} as its --run-dir " if fresh else ""
    view.say(f"the same command {how}resumes the run")
    if os.environ.get("WORLD_SIZE", "1") != "1":
        return {}
    command = shell_command(["sedd", *_resuming(run, fresh)])
    view.say(f"  {command}", "cyan")
    return {"resume": command}


def _resuming(run: Path, fresh: bool) -> list[str]:
    """The words that go on with a run that has stopped: those of this command, and of a fresh run its folder."""
    if not fresh:
        return sys.argv[1:]
    command, *words = [word for word in sys.argv[1:] if word != "--fresh"]
    return [command, "--run-dir", str(run), *without_option(words, "--run-dir")]  # before a "--", which ends options


def _spelled(recipe: Recipe) -> str:
    """The recipe as YAML; where it names no tokenizer, a comment says which one is taken."""
    from sedd_cli.checkpoints.own_text import text_options
    from sedd_cli.data.corpora import find_corpus
    from sedd_cli.recipe import dump_recipe

    text = dump_recipe(recipe)
    if recipe.data.tokenizer is not None:
        return text
    options = text_options(recipe)
    taken = " ".join((options.tokenizer or find_corpus(options).tokenizer).split())
    return text.replace("\n  tokenizer: null\n", f"\n  tokenizer: null  # by default: {taken}\n", 1)


def _plan(recipe: Recipe, report: bool, device: str) -> dict[str, str]:
    """What a recipe costs, and how long it takes on this machine, as labels and values."""
    from sedd_cli.training.cost import estimate_cost
    from sedd_cli.training.durations import about
    from sedd_cli.training.pace import training_seconds

    found = estimate_cost(recipe, report)
    plan = found.to_dict()
    if found.model is None:
        return plan
    seconds = training_seconds(recipe, found.model.vocab_size, found.model.memory, device)
    here = "not measured: it needs more memory than is free"
    if seconds is not None:
        here = (
            f"{about(seconds)}, from the quickest of a few single steps: short runs took 8 to 22 % longer; "
            "validation and report come on top"
        )
    return plan | {"on this machine": here}
