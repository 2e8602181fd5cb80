"""What exists of a row on this machine: its run and its results. Altered or foreign results do not count."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Literal

from sedd_cli.checkpoints.checkpoint import MANIFEST, latest_name
from sedd_cli.checkpoints.run_directory import MAY_CHANGE
from sedd_cli.data.corpora import CORPORA
from sedd_cli.errors import DamageError, RequestError, WorkError, listed
from sedd_cli.recipe import load_recipe
from sedd_cli.recipe.build import to_data
from sedd_cli.recipe.differences import differences
from sedd_cli.recipe.measure import as_measured
from sedd_cli.system.digests import digest, sha256_of
from sedd_cli.system.documents import read_json
from sedd_cli.system.files import write_whole
from sedd_cli.system.json_lines import finite, json_text
from sedd_cli.system.software import recorded
from sedd_cli.tables.column import Column, RowSampling
from sedd_cli.tables.measures import MEASURES
from sedd_cli.tables.row_run import RowRun

#: Version of result files. It increases when an older reader would misread a newer file.
FORMAT = 1
#: Files of an export that are not part of its model.
ASIDE = ("README.md", "results.json")

State = Literal["quoted", "missing", "training", "other", "trained", "measured"]


@dataclass(frozen=True)
class RowStatus:
    """What exists of a row run.

    state: quoted from the paper, missing, training (unfinished), other (a run of another recipe is in its folder),
    trained (not measured in every column), measured. A loaded model is missing until it is measured.
    problems: results that exist and do not count, and why. results, seconds: column → result, and its duration.
    """

    run: RowRun
    state: State
    message: str = ""
    problems: tuple[str, ...] = ()
    results: dict[str, dict[str, Any]] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def unmeasured(self) -> list[Column]:
        """The columns without a result."""
        return [column for column in self.run.columns if column.name not in self.results]


def row_status(run: RowRun) -> RowStatus:
    """What exists of a row run. No model is loaded."""
    if run.source is None:
        return RowStatus(run, "quoted", "quoted, not run")
    if run.training is not None:
        state, message = run_state(run)
        if state == "other":
            return RowStatus(run, state, "not counted, see below", (message,))
        if state != "trained":
            return RowStatus(run, state, message)
    for scorer in run.scorers:
        state, message = run_state(scorer)
        if state == "other":
            return RowStatus(run, state, "not counted, see below", (f"its judge: {message}",))
    results, seconds, problems = {}, {}, []
    for column in run.columns:
        try:
            if (record := read_record(run, column)) is not None:
                results[column.name] = record["result"]
                if "seconds" in record:
                    seconds[column.name] = record["seconds"]
        except DamageError as error:
            problems.append(str(error))
    if len(results) == len(run.columns):
        return RowStatus(run, "measured", results=results, seconds=seconds)
    message = "not counted, see below" if problems else "partly measured" if results else "to be measured"
    return RowStatus(run, "trained" if run.training else "missing", message, tuple(problems), results, seconds)


def run_state(run: RowRun) -> tuple[State, str]:
    """(missing | training | other | trained, a message) of the training run that the row measures."""
    folder, recipe = run.trained.folder, run.recipe
    assert recipe is not None, "the row is not trained"
    if not (folder / "recipe.yaml").is_file():
        return "missing", "to be trained"
    try:
        stored = load_recipe(folder / "recipe.yaml")
    except RequestError as error:
        return "other", f"{folder} is not counted: {error}"
    # the sampler of the recipe matters only if the row generates text
    generates = any(column.uses for column in run.columns)
    harmless = tuple(key for key in MAY_CHANGE if key != "sampler" or not generates)
    wanted = as_measured(recipe, stored).to_data()
    changed = [change for change in differences(stored.to_data(), wanted) if not change.within(harmless)]
    if changed:
        return "other", (
            f"{folder} is not counted: made with another recipe ({listed(changed, separator='; ')}); "
            f"remove that folder to train the row again"
        )
    step = (latest_name(folder) or "0").removeprefix("step-")
    if step != str(recipe.train.steps):
        return "training", f"not counted: at step {step} of {recipe.train.steps:,}"
    return "trained", ""


def write_result(run: RowRun, column: Column, result: dict[str, Any], seconds: float = 0.0) -> None:
    """Store a measurement with its duration, a digest, and what made it; WorkError where its value is not finite."""
    try:
        MEASURES[type(column)].value(finite(result), column, run.unit)
    except (KeyError, TypeError, ValueError):
        raise WorkError(f"{column.name} is not finite, or missing in the result: it is not stored") from None
    path = run.result_file(column)
    path.parent.mkdir(parents=True, exist_ok=True)
    subject = _subject(run, column) | {"contents": _contents(run, column)}
    record = {"format": FORMAT, "of": subject, "seconds": seconds, "result": result}
    record["sha256"] = digest([record["of"], result])
    write_whole(path, json_text(recorded(record), 1) + "\n")


def read_record(run: RowRun, column: Column) -> dict[str, Any] | None:
    """The stored record {"result", "seconds", …} of a measurement, or None.

    Raises DamageError if the file was altered or belongs to another measurement.
    """
    path = run.result_file(column)
    if not path.is_file():
        return None
    try:
        record = read_json(path)
        subject, result = record["of"], record["result"]
        if record["format"] != FORMAT or record["sha256"] != digest([subject, result]):
            raise ValueError
        MEASURES[type(column)].value(result, column, run.unit)
    except (OSError, DamageError, ValueError, KeyError, TypeError, AttributeError):
        raise DamageError(f"{path} was changed or damaged: not counted; measure again") from None
    known = subject.pop("contents", {})  # of files that are gone, or of a record without them, nothing is known
    changed = [key for key, found in _contents(run, column).items() if known.get(key, found) != found]
    if changed:
        raise DamageError(f"{path} is of another {listed(changed)} of the same name: not counted; measure again")
    if subject != _subject(run, column):
        raise DamageError(f"{path} is of other weights, or of another measurement: not counted; measure again")
    return record


def _subject(run: RowRun, column: Column) -> dict[str, Any]:
    """What a stored result must be of: row, seed, weights, the column's options, the weights of the judge."""
    model = run.row.model if run.training is None else None
    options = {key: value for key, value in to_data(column).items() if key != "name" and value is not None}
    how = {} if run.row.how == RowSampling() else {"how": to_data(run.row.how)}
    scorer = run.scorer(column)
    judge = {} if scorer is None else {"judge_weights": scorer.weights}
    row = {"row": run.row.name, "seed": run.seed, "model": model, "weights": run.weights}
    return row | options | how | judge


def _contents(run: RowRun, column: Column) -> dict[str, str]:
    """Digests of what the subject names by path: a model, a judge, a dataset and references, where they are here.

    What is named otherwise is known by its name alone.
    """
    scorer = column.scorer
    models = {"model": run.row.model if run.training is None else None, "judge": scorer.source if scorer else None}
    texts = {key: getattr(column, key, None) for key in ("dataset", "references")}
    names = models | {key: name for key, name in texts.items() if name not in CORPORA}
    digests = {key: _digest_at(Path(name)) for key, name in names.items() if name is not None}
    return {key: found for key, found in digests.items() if found is not None}


def _digest_at(path: Path) -> str | None:
    """A digest of a file, of a run's last checkpoint, of prepared data or of a folder's files; None if there is none.

    A checkpoint and prepared data have a manifest, which identifies them.
    """
    try:
        latest = latest_name(path)
        manifest = (path / "checkpoints" / latest if latest else path) / MANIFEST
        if manifest.is_file():
            return sha256_of(manifest)
        if not path.is_dir():
            return _of_file(path)
        files = sorted(file for file in path.rglob("*") if file.is_file() and file.name not in ASIDE)
        return digest([[file.relative_to(path).as_posix(), _of_file(file)] for file in files]) if files else None
    except OSError:
        return None


def _of_file(path: Path) -> str:
    """sha256 of a file, which is read once as long as it does not change."""
    found = path.stat()
    return _sha256_of(path, found.st_size, found.st_mtime_ns)


@cache
def _sha256_of(path: Path, size: int, changed: int) -> str:
    return sha256_of(path)
