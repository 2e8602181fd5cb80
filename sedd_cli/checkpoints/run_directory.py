"""The run directory: its recipe, lock, metrics, samples and results."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from torch import Tensor

from sedd_cli.checkpoints import checkpoint
from sedd_cli.checkpoints.draft import tensor_file
from sedd_cli.data.tokenizers import HUB_WORDS
from sedd_cli.errors import RequestError, WorkError, listed, reason_of, unwritable
from sedd_cli.recipe import Recipe, dump_recipe, load_recipe
from sedd_cli.system.files import near, whole_file, write_whole
from sedd_cli.system.json_lines import json_text, read_json_lines
from sedd_cli.system.locks import file_lock
from sedd_cli.system.outputs import check_folder
from sedd_cli.system.software import recorded

#: Keys that may change when a run resumes: they change speed, storage or reports, and results by rounding only; but
#: with dropout, micro_batch changes the masks (`training.step`). A changed file of `parts` is a warning.
MAY_CHANGE = (
    "train.log_every", "train.save_every", "train.keep", "train.keep_every", "train.micro_batch", "train.strategy",
    "train.compile", "train.recompute", "model.attention", "sampler", "report", "parts",
)  # fmt: skip


#: The folder of runs, if no other is given.
RUNS = Path("runs")
#: An empty file that marks a folder as a run.
MARK = ".sedd-run"
#: Kinds of our records in metrics.jsonl.
KINDS = ("train", "validation", "failed", "extended")
#: The beginning of each of them.
BEGINNING = '{"kind": "'


@dataclass(frozen=True)
class RunDir:
    """`runs/NAME/`: recipe.yaml, metrics.jsonl, checkpoints/, latest, samples/, results/."""

    path: Path

    def check(self) -> None:
        """Raise RequestError unless the folder is new, empty or a run, without checkpoints of another program."""
        check_folder("--run-dir", self.path, is_run, "a run")
        for folder in sorted((self.path / "checkpoints").glob("step-*")):
            if re.fullmatch(checkpoint.NAME, folder.name) and not checkpoint.is_checkpoint(folder):
                raise RequestError(
                    f"{folder} is not a checkpoint of sedd: move it elsewhere, or choose another folder with --run-dir"
                )

    def create(self) -> None:
        """Make the folder; RequestError if it cannot be written, WorkError if the disk is full."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            (self.path / ".lock").touch()
            (self.path / MARK).touch()
            if not os.access(self.path, os.W_OK):
                raise PermissionError(13, "Permission denied")
        except OSError as error:
            raise unwritable(self.path, error) from None

    def export(self, tensors: dict[str, Tensor]) -> Path:
        """Write the EMA weights to ema.safetensors; WorkError if that fails."""
        path = self.path / "ema.safetensors"
        try:
            with whole_file(path) as beside:
                tensor_file(tensors)(beside)
        except (OSError, SafetensorError) as error:
            raise WorkError(f"cannot write {path}: {reason_of(error)}") from None
        return path

    @contextmanager
    def hold(self) -> Iterator[None]:
        """Hold the lock of the folder while the block runs; RequestError if another process holds it."""
        # wait a second, because `is_locked` takes the lock for a moment
        with file_lock(self.path / ".lock", f"another process is training in {self.path}", timeout=1):
            try:
                yield
            finally:
                self._remove_if_empty()

    def _remove_if_empty(self) -> None:
        """Remove the folder of a refused request."""
        with suppress(OSError):
            if {p.name for p in self.path.iterdir()} <= {".lock", MARK}:
                for name in (".lock", MARK):
                    (self.path / name).unlink(missing_ok=True)
                self.path.rmdir()

    def fresh(self) -> RunDir:
        """The first of NAME-2, NAME-3, … that does not exist."""
        number = 2
        while (candidate := self.path.with_name(f"{self.path.name}-{number}")).exists():
            number += 1
        return RunDir(candidate) if self.path.exists() else self

    def newest(self) -> RunDir:
        """The last of NAME, NAME-2, NAME-3, … that exists."""
        number = 1
        while self.path.with_name(f"{self.path.name}-{number + 1}").exists():
            number += 1
        return RunDir(self.path.with_name(f"{self.path.name}-{number}")) if number > 1 else self

    def last_good(self) -> str:
        """The newest checkpoint, for a message."""
        latest = checkpoint.latest_name(self.path)
        if latest is None:
            return "no checkpoint was saved yet"
        return f"the last good checkpoint is {self.path / 'checkpoints' / latest}"

    def log(self, record: dict[str, Any]) -> None:
        """Append a record to metrics.jsonl."""
        path = self.path / "metrics.jsonl"
        try:
            with path.open("a", encoding="utf-8") as file:
                file.write(json_text(record) + "\n")
        except OSError as error:
            raise WorkError(f"cannot write {path}: {error.strerror}; {self.last_good()}") from None

    def begin(self, recipe: Recipe, step: int) -> None:
        """Store the recipe, and remove metrics of steps that a resumed run repeats."""
        stored = self.path / "recipe.yaml"
        try:
            if not _holds(stored, recipe):  # comments in it, and a link to it, stay
                if stored.is_symlink():  # to a recipe of the user
                    stored.unlink()
                write_whole(stored, dump_recipe(recipe))
        except OSError as error:
            raise WorkError(f"cannot write to {self.path}: {error.strerror}") from None
        metrics = self.path / "metrics.jsonl"
        if metrics.is_file():
            lines = read_json_lines(metrics)
            kept = [line.raw for line in lines if not line.cut_short(BEGINNING) and not _later(line.record, step)]
            write_whole(metrics, b"".join(raw + b"\n" for raw in kept))

    def validated(self, step: int) -> bool:
        """Whether metrics.jsonl holds the validation of a step."""
        records = (line.record or {} for line in read_json_lines(self.path / "metrics.jsonl"))
        return any((record.get("kind"), record.get("step")) == ("validation", step) for record in records)

    def store_result(self, name: str, result: dict[str, Any], documents: dict[str, Any]) -> Path:
        """Write results/NAME.json, and results/documents/NAME.json with the likelihood of each document."""
        path = self.store("results", name, recorded(result))
        if documents:
            self.store("results/documents", name, documents)
        return path

    def store(self, folder: str, name: str, records: Iterable[dict[str, Any]] | dict[str, Any]) -> Path:
        """Write FOLDER/NAME.json (a mapping) or FOLDER/NAME.jsonl (many records)."""
        (self.path / folder).mkdir(exist_ok=True)
        one = isinstance(records, dict)
        path = self.path / folder / f"{name}.{'json' if one else 'jsonl'}"
        indent = 1 if one else None
        found = [records] if one else records
        lines = [json_text(r, indent) for r in found]
        write_whole(path, "\n".join(lines) + "\n")
        return path


def _later(record: dict[str, Any] | None, step: int) -> bool:
    """Whether a record of metrics.jsonl is one of ours about a later step."""
    return bool(record and record.get("kind") in KINDS and isinstance(at := record.get("step"), int) and at > step)


def _holds(stored: Path, recipe: Recipe) -> bool:
    try:
        return load_recipe(stored).to_data() == recipe.to_data()
    except RequestError:
        return False


def is_run(folder: Path) -> bool:
    """Whether a folder is a run: it is marked as one, or has a checkpoint (runs of older versions have no mark)."""
    return (folder / MARK).is_file() or any(
        checkpoint.is_checkpoint(path) for path in folder.glob("checkpoints/step-*")
    )


def find_run(named: str | Path) -> Path:
    """The folder of a run, which may be named as `sedd runs` lists it: seen from ./runs, and lying below it."""
    folder = Path(named)
    hidden = folder.exists() or str(named) in HUB_WORDS or folder.is_absolute() or ".." in folder.parts
    return RUNS / folder if not hidden and is_run(RUNS / folder) else folder


def by_name(source: str) -> str:
    """The folder of the run that `source` names as `sedd runs` lists it; any other source as it is."""
    found = find_run(source)
    return source if found == Path(source) else str(found)


def run_names() -> list[str]:
    """The runs under ./runs, as `sedd runs` lists them."""
    return [path.name for path in sorted(RUNS.iterdir()) if is_run(path)] if RUNS.is_dir() else []


def near_run(folder: Path) -> str:
    """The end of a message about a run that does not exist: the most similar name, else the names of the runs."""
    known = run_names()
    if meant := near(folder, known, folders=True):
        return meant
    return f"; the runs under {RUNS} are {listed(known)}" if known and len(folder.parts) == 1 else ""


def newest_run(parent: Path) -> Path | None:
    """The run under `parent` with the most recent checkpoint."""
    marks = [p for p in parent.glob(f"*/{checkpoint.LATEST}") if p.is_file()]
    return max(marks, key=lambda p: p.stat().st_mtime).parent if marks else None
