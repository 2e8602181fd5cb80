"""`sedd train`."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from sedd_cli.cli import options as o
from sedd_cli.cli.view.status import show_status
from sedd_cli.cli.view.view import View
from sedd_cli.errors import RequestError


def train(
    recipe: Annotated[str | None, typer.Argument(help="A YAML file, or the name of a shipped recipe.")] = None,
    overrides: Annotated[list[str] | None, typer.Argument(help="dotted.key=value", metavar="[KEY=VALUE]...")] = None,
    run_dir: Annotated[Path | None, typer.Option(help="Default: runs/ and the recipe's name.")] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Start anew in a new folder.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the resolved recipe and its cost, and stop.")
    ] = False,
    report: Annotated[bool, typer.Option(help="Evaluate and sample when training is over.")] = True,
    fit: Annotated[bool, typer.Option("--fit", help="Measure which train.micro_batch is fastest, use it.")] = False,
    tensorboard: Annotated[bool, typer.Option("--tensorboard", help="Event files in RUN/tensorboard too.")] = False,
    wandb: Annotated[bool, typer.Option("--wandb", help="Tell wandb as well.")] = False,
    status: Annotated[
        Path | None, typer.Option(metavar="RUN", help="Show how a run stands, going on or over; no recipe needed.")
    ] = None,
    plot: Annotated[bool, typer.Option("--plot", help="With --status: write RUN/curve.png.")] = False,
    device: o.Device = "auto",
    json: o.Json = False,
    quiet: o.Quiet = False,
) -> None:
    """Train a model from a recipe, or resume it.

    A run that exists is resumed from its latest checkpoint; Ctrl-C finishes the step, saves and stops.
    On many GPUs: torchrun --standalone --nproc-per-node=8 -m sedd_cli train recipes/gpt2_small.yaml

    Example: sedd train recipes/quickstart.yaml train.steps=500
    """
    from sedd_cli.recipe import dump_recipe, load_recipe, shipped

    view = View(json, quiet)
    if status is not None:
        if recipe is not None:
            raise RequestError(f"--status takes a run and no recipe, found {recipe}")
        return show_status(view, status, plot)
    if recipe is None:
        raise RequestError(f"which recipe? A YAML file, or one of {', '.join(shipped())}")
    if plot:
        raise RequestError("--plot draws a run: sedd train --status RUN --plot")
    resolved = load_recipe(recipe, overrides or [])
    if dry_run:
        from sedd_cli.training.cost import estimate_cost

        cost = estimate_cost(resolved).to_dict()
        view.document({"recipe": resolved.to_data(), "plan": cost})
        if not json:
            typer.echo(dump_recipe(resolved))
            for key, value in cost.items():
                typer.echo(f"{key:>24}  {value}")
        return
    from sedd_cli.system.events import Finished
    from sedd_cli.training.train import TrainOptions
    from sedd_cli.training.train import train as job

    folder = run_dir or Path("runs") / resolved.name
    trackers = tuple(name for name, asked in (("tensorboard", tensorboard), ("wandb", wandb)) if asked)
    events = view.follow(job(resolved, TrainOptions(folder, device, fresh, report, fit, trackers, view.say)))
    result = next(event.result for event in events if isinstance(event, Finished))
    if not result["finished"] and os.environ.get("WORLD_SIZE", "1") == "1":
        result["resume"] = shlex.join(["sedd", *(word for word in sys.argv[1:] if word != "--fresh")])
        if fresh:
            result["resume"] += f" --run-dir {shlex.quote(result['run'])}"
        view.say(f"  {result['resume']}", "cyan")
    view.document(result)
    if result["finished"]:
        view.say("Try next:")
        lines = [f"sedd sample --model {result['run']} -n 3"]
        if prompt := resolved.report.infill:
            lines.append(f'sedd infill --model {result["run"]} --prefix "{prompt.prefix}" --suffix "{prompt.suffix}"')
        lines.append(f"sedd eval --model {result['run']} --dataset {resolved.data.corpus} --split validation")
        for line in lines:
            view.say(f"  {line}", "cyan")
