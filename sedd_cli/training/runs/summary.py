"""Runs in a folder: what each trained, how far it came and how well it does."""

from __future__ import annotations

import math
import os
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sedd_cli.checkpoints.checkpoint import latest_name
from sedd_cli.checkpoints.run_directory import MAY_CHANGE, is_run
from sedd_cli.checkpoints.tensors import tensor_shapes
from sedd_cli.errors import RequestError, WorkError
from sedd_cli.recipe import Recipe, load_recipe, shipped
from sedd_cli.recipe.differences import differences
from sedd_cli.recipe.recipe import DataRecipe
from sedd_cli.recipe.stored import StoredRecipe
from sedd_cli.training.status import Status, recipe_of, status

#: The changes that are listed first.
FIRST = ("data.corpus", "init_from", "train.extended")
#: How deep below a folder runs are looked for.
DEEPEST = 4
#: Keys that have no effect on what is trained.
ASIDE = (
    "name", "graph.edges", "noise.curve",
    *(key for key in MAY_CHANGE if key not in ("sampler", "model.attention")),
)  # fmt: skip


@dataclass(frozen=True)
class RunSummary:
    """A run in a list.

    Attributes:
        name: Its folder, seen from the listed one.
        run: The folder.
        like: What the recipe is compared with: a shipped recipe, another run of the list, or "" for nothing.
        changes: The differences from it, as "key=value".
        parameters: Of the network; None while there is no checkpoint.
        disk: Bytes of the folder.
        age: Seconds since the run was written to.
        status: State, steps, metrics and bound; None where the run cannot be read.
        error: Why it cannot be read.
    """

    name: str
    run: Path
    like: str
    changes: list[str]
    parameters: int | None
    disk: int
    age: float
    status: Status | None
    error: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """The JSON document of a run; the curve is left to `sedd status`."""
        found: dict[str, Any] = {"name": self.name, "run": str(self.run), "like": self.like, "changes": self.changes}
        found |= {"parameters": self.parameters, "disk_bytes": self.disk, "age_seconds": round(self.age)}
        if self.status is None:
            return found | {"error": self.error}
        one = self.status
        validation = one.validation[-1] if one.validation else None
        return found | {
            "recipe": one.recipe,
            "state": one.state,
            "step": one.step,
            "steps": one.steps,
            "seconds": one.seconds,
            "bound": asdict(one.bound) if one.bound else None,
            "validation": validation,
        }


def find_runs(folder: Path) -> list[Path]:
    """The runs in a folder and below, or the folder itself if it is one; RequestError if it does not exist."""
    if not folder.is_dir():
        raise RequestError(f"there is no folder {folder} (sedd train quickstart makes ./runs)")
    found: list[Path] = []
    for at, below, _ in os.walk(folder):
        here = Path(at)
        if is_run(here) and (here / "recipe.yaml").is_file():
            found.append(here)
            below.clear()
        elif len(here.relative_to(folder).parts) >= DEEPEST:
            below.clear()
        below[:] = sorted(name for name in below if not name.startswith("."))
    return found


def list_runs(folder: Path) -> list[RunSummary]:
    """The runs of a folder, the last one written to first; what few of them changed stands first in `changes`."""
    now, paths = time.time(), sorted(find_runs(folder), key=_written)
    recipes: dict[Path, StoredRecipe] = {}
    found = []
    for path in paths:  # the oldest first: later ones are compared with earlier ones
        name, old, disk = path.relative_to(folder).as_posix(), now - _written(path), disk_of(path)
        try:
            recipe, one = recipe_of(path), status(path)
        except (RequestError, WorkError, OSError) as error:
            found.append(RunSummary(name, path, "", [], None, disk, old, None, str(error)))
            continue
        like, changes = nearest_recipe(recipe, recipes)
        found.append(RunSummary(name, path, like, changes, parameters_of(path), disk, old, one))
        recipes[path] = recipe
    shared = Counter(change for one in found for change in one.changes)
    for one in found:
        one.changes.sort(key=lambda change: (_place(change), shared[change]))
    return found[::-1]


def _place(change: str) -> int:
    """Where a change stands in a list: first the text, then what the training went on with."""
    key = change.partition("=")[0]
    return FIRST.index(key) if key in FIRST else len(FIRST)


def nearest_recipe(recipe: StoredRecipe, others: dict[Path, StoredRecipe]) -> tuple[str, list[str]]:
    """What a recipe is best compared with, and the differences: the shipped one of its name, else the nearest run."""
    files = shipped()
    if (name := next((n for n in files if n in (recipe.name, f"mini/{recipe.name}")), None)) is not None:
        return name, changes_between(load_recipe(files[name]), recipe)
    compared = {path.name: changes_between(other, recipe) for path, other in others.items()}
    nearest = min(compared, key=lambda name: len(compared[name]), default="")
    return nearest, compared.get(nearest, [])


def changes_between(old: Recipe | StoredRecipe, new: Recipe | StoredRecipe) -> list[str]:
    """The keys of a recipe that differ from another's, as "key=value".

    What a recipe of another text leaves to the defaults, such as its tokenizer, is no difference of its own.
    """
    found = differences(old.to_data(), new.to_data())
    changed = {change.key: change.new for change in found if not change.within(ASIDE)}
    if "data.corpus" in changed:
        usual = DataRecipe(corpus="")
        changed = {
            key: value
            for key, value in changed.items()
            if not (key.startswith("data.") and new.to_data()["data"].get(key[5:]) == getattr(usual, key[5:], ...))
        }
    return [f"{key}={value}" for key, value in changed.items()]


def parameters_of(run: Path) -> int | None:
    """The number of parameters, from the headers of the stored weights; None where there are none."""
    whole = run / "ema.safetensors"
    if whole.is_file():
        return _elements([whole], "")
    if (latest := latest_name(run)) is None:
        return None
    return _elements((run / "checkpoints" / latest).glob("*.safetensors"), "ema.")


def disk_of(folder: Path) -> int:
    """Bytes of all files in a folder."""
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.lstat().st_size
        except OSError:  # it was removed meanwhile
            continue
    return total


def _elements(files: Iterable[Path], prefix: str) -> int | None:
    shapes = [shape for file in files for name, shape in tensor_shapes(file).items() if name.startswith(prefix)]
    return sum(map(math.prod, shapes)) or None


def _written(run: Path) -> float:
    """When a run was last written to."""
    files = (run / "metrics.jsonl", run / "latest", run / "recipe.yaml")
    return max((path.stat().st_mtime for path in files if path.is_file()), default=run.stat().st_mtime)
