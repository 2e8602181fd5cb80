"""What of a table exists on this machine: runs, and results that are theirs and unaltered."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from sedd_cli.checkpoints.run_directory import HARMLESS
from sedd_cli.errors import DamageError, RequestError
from sedd_cli.recipe import differences, load_recipe
from sedd_cli.recipe.build import plain
from sedd_cli.system.digests import digest
from sedd_cli.system.files import write_whole
from sedd_cli.tables.column import Column, How
from sedd_cli.tables.measures import MEASURES
from sedd_cli.tables.row_run import RowRun

#: Of a result file; changes whenever an older reader would misread it.
FORMAT = 1


@dataclass(frozen=True)
class Cells:
    """What there is of a place. state: quoted | missing | training | other | trained | measured.

    seconds: what each measurement took, where that is known.
    """

    place: RowRun
    state: str
    said: str = ""
    #: What is there and not counted, and why.
    wrong: tuple[str, ...] = ()
    results: dict[str, dict[str, Any]] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def left(self) -> list[Column]:
        """The columns that are still to be measured."""
        return [column for column in self.place.columns if column.name not in self.results]


def look(place: RowRun) -> Cells:
    """What exists, without loading a model."""
    if place.source is None:
        return Cells(place, "quoted", "quoted, not run")
    if place.training is not None:
        state, said = run_state(place)
        if state == "other":
            return Cells(place, state, "not counted, see below", (said,))
        if state != "trained":
            return Cells(place, state, said)
    for judge in place.readers:
        state, said = run_state(judge)
        if state == "other":
            return Cells(place, state, "not counted, see below", (f"its judge: {said}",))
    results, seconds, wrong = {}, {}, []
    for column in place.columns:
        try:
            if (found := read_record(place, column)) is not None:
                results[column.name] = found["result"]
                if "seconds" in found:
                    seconds[column.name] = found["seconds"]
        except DamageError as error:
            wrong.append(str(error))
    if len(results) == len(place.columns):
        return Cells(place, "measured", results=results, seconds=seconds)
    state = "trained" if place.training else "missing"
    said = "not counted, see below" if wrong else "partly measured" if results else "to be measured"
    return Cells(place, state, said, tuple(wrong), results, seconds)


def run_state(place: RowRun) -> tuple[str, str]:
    """(missing | training | other | trained, what to say of it) of a place's run, for what the place measures."""
    folder, recipe = place.trained.folder, place.recipe
    if not (folder / "recipe.yaml").is_file():
        return "missing", "to be trained"
    try:
        stored = load_recipe(folder / "recipe.yaml")
    except RequestError as error:
        return "other", f"{folder} is not counted: {error}"
    # what is drawn from a run depends on its sampler too
    drawn = any(column.reads for column in place.columns)
    harmless = tuple(key for key in HARMLESS if key != "sampler." or not drawn)
    changed = [line for line in differences(stored.to_data(), recipe.to_data()) if not line.startswith(harmless)]
    if changed:
        return "other", (
            f"{folder} is not counted: made with another recipe ({'; '.join(changed)}); "
            "remove that folder to train the row anew"
        )
    mark = folder / "latest"
    step = mark.read_text(encoding="utf-8").strip().removeprefix("step-") if mark.is_file() else "0"
    if step != str(recipe.train.steps):
        return "training", f"not counted: at step {step} of {recipe.train.steps:,}"
    return "trained", ""


def write_result(place: RowRun, column: Column, result: dict[str, Any], seconds: float = 0.0) -> None:
    """Keep a measurement with a digest of it, and what it took."""
    path = place.result_file(column)
    path.parent.mkdir(parents=True, exist_ok=True)
    record = {"format": FORMAT, "of": _of(place, column), "seconds": seconds, "result": result}
    record["sha256"] = digest([record["of"], result])
    write_whole(path, json.dumps(record, indent=1, ensure_ascii=False) + "\n")


def read_record(place: RowRun, column: Column) -> dict[str, Any] | None:
    """{"result", "seconds", …} of a measurement; None where there is none.

    DamageError for one that was altered, or is of something else.
    """
    path = place.result_file(column)
    if not path.is_file():
        return None
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        of, result = record["of"], record["result"]
        if record["format"] != FORMAT or record["sha256"] != digest([of, result]):
            raise ValueError
        MEASURES[type(column)].value(result, column, place.unit)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise DamageError(f"{path} was changed or damaged: not counted; measure again") from None
    if of != _of(place, column):
        raise DamageError(f"{path} is of other weights, or of another measurement: not counted; measure again")
    return record


def _of(place: RowRun, column: Column) -> dict[str, Any]:
    """What a result has to be of."""
    model = place.row.model if place.training is None else None
    asked = {key: value for key, value in plain(column).items() if key != "name" and value is not None}
    how = {} if place.row.how == How() else {"how": plain(place.row.how)}
    judge = place.reader(column)
    judged = {} if judge is None else {"judge_weights": judge.weights}
    row = {"row": place.row.name, "seed": place.seed, "model": model, "weights": place.weights}
    return row | asked | how | judged
