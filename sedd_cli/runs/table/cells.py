"""What of a table exists on this machine: runs, and results that are theirs and unaltered."""

from __future__ import annotations

import hashlib
import json
import shlex
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sedd_cli.errors import DamageError, RequestError
from sedd_cli.recipe import Recipe, differences, load_recipe
from sedd_cli.recipe.table import Column, Row, Table, recipe_of
from sedd_cli.runs.checkpoint import MANIFEST
from sedd_cli.runs.rundir import HARMLESS
from sedd_cli.text.atomic import write_whole
from sedd_cli.text.tokenizers.base import digest

#: Where runs of tables are, unless another folder is named.
RUNS = Path("runs", "tables")
#: Of a result file; changes whenever an older reader would misread it.
FORMAT = 1


@dataclass(frozen=True)
class Place:
    """A row of a table for one seed: where its run and results are, and how it is made. runs: the folder of all."""

    table: Table
    row: Row
    mini: bool
    seed: int
    runs: Path

    @property
    def columns(self) -> tuple[Column, ...]:
        """What it is measured on."""
        return self.table.mini.columns if self.mini and self.table.mini else self.table.columns

    @property
    def folder(self) -> Path:
        """The run's folder, or that of a loaded model's results."""
        size = ("mini",) if self.mini else ()
        return self.runs.joinpath(*size, self.table.name, self.row.name, f"seed-{self.seed}")

    @property
    def training(self) -> tuple[str, tuple[str, ...]] | None:
        """The recipe and its overrides; None where the model is loaded or quoted."""
        return recipe_of(self.table, self.row, self.mini, self.seed)

    @property
    def source(self) -> str | None:
        """What `--model` is given to measure it."""
        return str(self.folder) if self.training else None if self.mini else self.row.model

    @property
    def recipe(self) -> Recipe | None:
        """The recipe as it should be."""
        return load_recipe(*self.training) if self.training else None

    def train_command(self) -> str | None:
        """What trains it, word for word, wherever; None where it is not trained."""
        if self.training is None:
            return None
        name, changes = self.training
        return shlex.join(["sedd", "train", name, *changes, "--run-dir", str(self.folder), "--no-report"])

    def measure_command(self) -> str | None:
        """What measures it, and trains it here if it is not; None where it is quoted."""
        if self.source:
            words = ["sedd", "table", self.table.name.removeprefix("table"), "--run", self.row.name]
            words += ["--mini"] if self.mini else []
            words += ["--seeds", str(self.seed + 1)] if self.seed else []
            words += ["--runs", str(self.runs)] if self.runs != RUNS else []
            return shlex.join(words)
        return None

    def result_file(self, column: Column) -> Path:
        """Where a measurement is kept."""
        return self.folder / "table" / f"{column.name}.json"


@dataclass(frozen=True)
class Cells:
    """What there is of a place. state: quoted | missing | training | other | trained | measured."""

    place: Place
    state: str
    said: str = ""
    results: dict[str, dict[str, Any]] = field(default_factory=dict)


def look(place: Place) -> Cells:
    """What exists, without loading a model."""
    if place.source is None:
        return Cells(place, "quoted", "quoted, not run")
    if (recipe := place.recipe) is not None:
        state, said = _trained(place.folder, recipe)
        if state != "trained":
            return Cells(place, state, said)
    results, wrong = {}, []
    for column in place.columns:
        try:
            if (found := read_result(place, column)) is not None:
                results[column.name] = found
        except DamageError as error:
            wrong.append(str(error))
    if wrong:
        return Cells(place, "trained", "; ".join(wrong), results)
    if len(results) == len(place.columns):
        return Cells(place, "measured", "", results)
    return Cells(place, "trained" if recipe else "missing", "to be measured", results)


def write_result(place: Place, column: Column, result: dict[str, Any]) -> None:
    """Keep a measurement with a digest of it."""
    path = place.result_file(column)
    path.parent.mkdir(parents=True, exist_ok=True)
    record = {"format": FORMAT, "of": _of(place, column), "result": result}
    record["sha256"] = digest([record["of"], result])
    write_whole(path, json.dumps(record, indent=1, ensure_ascii=False) + "\n")


def read_result(place: Place, column: Column) -> dict[str, Any] | None:
    """A measurement; None where there is none. DamageError for one that was altered, or is of something else."""
    path = place.result_file(column)
    if not path.is_file():
        return None
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        result = record["result"]
        of, ((_, bound),) = record["of"], result["bounds"].items()
        altered = record["format"] != FORMAT or record["sha256"] != digest([of, result])
        if altered or not {"perplexity", "bits_per_char"} <= bound.keys():
            raise ValueError
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise DamageError(f"{path} was changed or damaged: not counted; measure again") from None
    if of != _of(place, column):
        raise DamageError(f"{path} is of other weights or another text: not counted; measure again")
    return result


def _of(place: Place, column: Column) -> dict[str, Any]:
    """What a result has to be of."""
    model = place.row.model if place.training is None else None
    text = {"dataset": column.dataset, "split": column.split, "protocol": column.protocol}
    return {"row": place.row.name, "seed": place.seed, "model": model, "weights": _weights(place), **text}


def _weights(place: Place) -> str | None:
    """What tells the weights of a run's last checkpoint from others: the sha256 of its manifest."""
    if place.training is None:
        return None
    mark = place.folder / "latest"
    if not mark.is_file():
        return None
    manifest = place.folder / "checkpoints" / mark.read_text(encoding="utf-8").strip() / MANIFEST
    return hashlib.sha256(manifest.read_bytes()).hexdigest() if manifest.is_file() else None


def _trained(folder: Path, recipe: Recipe) -> tuple[str, str]:
    if not (folder / "recipe.yaml").is_file():
        return "missing", "to be trained"
    try:
        stored = load_recipe(folder / "recipe.yaml")
    except RequestError as error:
        return "other", f"not counted: {error}"
    changed = [line for line in differences(stored.to_data(), recipe.to_data()) if not line.startswith(HARMLESS)]
    if changed:
        return "other", f"not counted: made with another recipe ({'; '.join(changed)})"
    mark = folder / "latest"
    step = mark.read_text(encoding="utf-8").strip().removeprefix("step-") if mark.is_file() else "0"
    if step != str(recipe.train.steps):
        return "training", f"not counted: at step {step} of {recipe.train.steps:,}"
    return "trained", ""
