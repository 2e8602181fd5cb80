"""Where a training begins: anew, at the latest checkpoint of its run, or at one before the decay of its rate."""

from __future__ import annotations

import dataclasses
import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from sedd_cli.checkpoints import checkpoint
from sedd_cli.checkpoints.run_directory import MAY_CHANGE, RunDir
from sedd_cli.errors import DamageError, RequestError, WorkError, listed, shell_command
from sedd_cli.recipe import Recipe, load_recipe
from sedd_cli.recipe.differences import Difference, differences
from sedd_cli.recipe.learning_rate import common_steps, steps_before_decay
from sedd_cli.recipe.measure import as_measured
from sedd_cli.system.files import write_whole

#: Keys that may change where the steps taken so far stay the same.
COURSE = ("train.steps", "train.decay", "train.extended")
#: The step in the name of a result or of samples.
STEP = re.compile(r"(?:^|-)step-(\d+)")
#: The folder of a run that keeps what was trained beyond the step from which the run goes on.
ANNEALED = "annealed"


@dataclass(frozen=True)
class Start:
    """The recipe that is trained and the checkpoint it goes on from.

    Attributes:
        recipe: With the record of `--extend`, if there is one.
        found: None for a new run.
        left: The latest checkpoint, where `found` is an earlier one.
        former: Steps of the training that is extended; None where the number does not change.
        notes: What changed, in lines.
    """

    recipe: Recipe
    found: checkpoint.Checkpoint | None = None
    left: checkpoint.Checkpoint | None = None
    former: int | None = None
    notes: tuple[str, ...] = ()


def find_start(run: RunDir, recipe: Recipe, extend: bool = False) -> Start:
    """Where a training of this recipe begins in this run; nothing is written.

    Args:
        run: A folder that may hold a run.
        recipe: The recipe asked for.
        extend: Go on where the rate has decayed already, with the rate of the longer schedule.

    Raises:
        RequestError: The run is of another recipe, or its first steps are not those of the recipe.
    """
    latest = checkpoint.latest(run.path)
    if latest is None:
        if extend:
            raise RequestError(f"--extend: {run.path} has no checkpoint to go on from")
        return Start(recipe)
    stored = _recipe_of(latest)
    recipe = as_measured(recipe, stored)
    if extend:
        recipe = _extended(run, latest, stored, recipe)
    changes = _differences(run, latest, recipe)
    found = latest if _shares(latest, recipe) else _earlier(run, latest, recipe)
    if found is None:
        course = [str(change) for change in changes if change.within(COURSE)]
        longer = recipe.train.steps > stored.train.steps and latest.step == stored.train.steps
        again = ["sedd", "train", run.path, *_overrides(changes)]
        extended = f"`{shell_command([*again, '--extend'])}` goes on from its end, with the rate rewound; "
        ways = extended if longer else ""
        raise RequestError(
            f"{run.path} is at step {latest.step:,} of {stored.train.steps:,} with a rate that decays towards the last "
            f"step: a training of {recipe.train.steps:,} steps has had other rates up to here ({'; '.join(course)}); "
            f"{ways}`{shell_command([*again, '--fresh'])}` starts a new run"
        )
    notes = [f"changed since the checkpoint: {change}" for change in changes]
    if len(recipe.train.extended) > len(stored.train.extended):
        notes.append(
            f"the rate had decayed over {stored.train.steps:,} steps and is rewound to that of step "
            f"{latest.step + 1:,} of {recipe.train.steps:,}; weights, averages and moments are kept; the recipe "
            f"records it as train.extended={list(recipe.train.extended)}"
        )
    left = latest if found is not latest else None
    if left:
        notes.append(
            f"going back from step {left.step:,} to step {found.step:,}, where the rate had not decayed; "
            f"{left.folder.name}, its metrics and results are kept in {run.path / ANNEALED}"
        )
    former = stored.train.steps if stored.train.steps != recipe.train.steps else None
    return Start(recipe, found, left, former, tuple(notes))


def check_recipe_of(run: RunDir, recipe: Recipe) -> None:
    """RequestError where a folder holds a run of another recipe: what `find_start` would find, before any work."""
    if (latest := checkpoint.latest(run.path)) is not None:
        _differences(run, latest, as_measured(recipe, _recipe_of(latest)))


def _differences(run: RunDir, latest: checkpoint.Checkpoint, recipe: Recipe) -> list[Difference]:
    """How the recipe of a run and the one asked for differ; RequestError where they may not."""
    changes = differences(_recipe_of(latest).to_data(), recipe.to_data())
    if others := [change for change in changes if not change.within((*MAY_CHANGE, *COURSE))]:
        raise RequestError(
            f"{run.path} holds a run of another recipe ({listed(others, separator='; ')}): "
            f"choose another folder with --run-dir, start a new run with --fresh, "
            f"or from its weights with init_from={run.path}"
        )
    if latest.step > (steps := recipe.train.steps):
        again = ["sedd", "train", run.path, *_overrides(changes), "--fresh"]
        kept = [one.folder for one in checkpoint.completed(run.path) if one.step == steps]
        model = f"; the model of step {steps:,} is kept in {kept[0]}" if kept else ""
        raise RequestError(
            f"{run.path} is at step {latest.step:,}, beyond train.steps={steps}: name more steps to go on; "
            f"`{shell_command(again)}` starts a new run{model}"
        )
    return changes


def _overrides(changes: list[Difference]) -> list[str]:
    """The overrides that make these changes of a stored recipe; `train.extended` follows from the steps."""
    return [f"{change.key}={change.new}" for change in changes if change.key != "train.extended"]


def begin(run: RunDir, start: Start, recipe: Recipe) -> None:
    """Store the recipe and take back what lies after the start; what was trained beyond it is kept beside."""
    try:
        if start.left and start.found:
            _keep_beside(run, start.left)
            _move_beside(run, start.left, start.found.step)
            write_whole(run.path / checkpoint.LATEST, start.found.folder.name + "\n")
    except OSError as error:
        raise WorkError(f"cannot write to {run.path}: {error.strerror}") from None
    step = start.found.step if start.found else 0
    run.begin(recipe, step)
    if start.former is not None:
        run.log({"kind": "extended", "step": step, "from": start.former, "steps": recipe.train.steps})


def _recipe_of(found: checkpoint.Checkpoint) -> Recipe:
    return load_recipe(found.folder / "recipe.yaml")


def _extended(run: RunDir, latest: checkpoint.Checkpoint, stored: Recipe, recipe: Recipe) -> Recipe:
    """The recipe with the record that the rate is rewound, if it had decayed."""
    before, wanted = stored.train, recipe.train
    history = before.extended
    if wanted.steps > before.steps and steps_before_decay(before) < before.steps:
        if latest.step < before.steps:
            raise RequestError(
                f"--extend: {run.path} is at step {latest.step:,} of {before.steps:,}, whose rate has not decayed to "
                f"its end: finish it first"
            )
        history = (*before.extended, before.steps)
    if wanted.steps < before.steps or wanted.extended not in ((), before.extended):
        return recipe
    return dataclasses.replace(recipe, train=dataclasses.replace(wanted, extended=history))


def _shares(found: checkpoint.Checkpoint, recipe: Recipe) -> bool:
    """Whether the steps up to this checkpoint are those of the recipe."""
    return found.step <= common_steps(_recipe_of(found).train, recipe.train)


def _earlier(run: RunDir, latest: checkpoint.Checkpoint, recipe: Recipe) -> checkpoint.Checkpoint | None:
    """The last intact checkpoint before `latest` that a training of the recipe would have written, too."""
    for one in reversed(checkpoint.completed(run.path)):
        try:
            if 0 < one.step < latest.step:
                found = checkpoint.open_checkpoint(one.folder)
                changes = differences(_recipe_of(found).to_data(), recipe.to_data())
                if _shares(found, recipe) and all(change.within((*MAY_CHANGE, *COURSE)) for change in changes):
                    return found
        except (DamageError, RequestError):
            continue
    return None


def _keep_beside(run: RunDir, left: checkpoint.Checkpoint) -> None:
    """Keep the latest checkpoint, and the metrics so far; the next checkpoint would drop them."""
    place = run.path / ANNEALED / left.folder.name
    beside = place.with_name(f".{place.name}.partial")
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir(parents=True)
    try:
        for file in left.folder.iterdir():
            _linked(file, beside / file.name)
    except OSError:
        shutil.rmtree(beside, ignore_errors=True)
        raise
    shutil.rmtree(place, ignore_errors=True)
    os.replace(beside, place)
    if (metrics := run.path / "metrics.jsonl").is_file():
        write_whole(place.with_name(f"{place.name}-metrics.jsonl"), metrics.read_bytes())


def _move_beside(run: RunDir, left: checkpoint.Checkpoint, step: int) -> None:
    """Move results, samples and averaged weights of later steps than `step`: the run will have others there."""
    beside = run.path / ANNEALED / f"{left.folder.name}-results"
    named = [*run.path.glob("results/**/*.json*"), *run.path.glob("samples/*.json*")]
    later = [file for file in named if (at := STEP.search(file.name)) and int(at[1]) > step]
    for file in (*later, run.path / "ema.safetensors"):
        if file.is_file():
            place = beside / file.relative_to(run.path)
            place.parent.mkdir(parents=True, exist_ok=True)
            os.replace(file, place)


def _linked(source: Path, target: Path) -> None:
    """A second name of a file, or a copy where the disk has no such names."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
