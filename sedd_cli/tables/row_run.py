"""Where the parts of a table are: runs, results, and the commands that make them."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from sedd_cli.checkpoints.checkpoint import MANIFEST
from sedd_cli.errors import RequestError
from sedd_cli.recipe import Recipe, load_recipe
from sedd_cli.system.digests import sha256_of
from sedd_cli.tables import definition as tables
from sedd_cli.tables.column import Column, Likelihood
from sedd_cli.tables.definition import Row, Table, recipe_of

#: Where runs of tables are, unless another folder is named.
RUNS = Path("runs", "tables")


@dataclass(frozen=True)
class RowRun:
    """A row of a table for one seed: where its run and results are, and how it is made. runs: the folder of all."""

    table: Table
    row: Row
    mini: bool
    seed: int
    runs: Path

    @property
    def label(self) -> str:
        """What the row is called."""
        return self.row.mini_label or self.row.label if self.mini else self.row.label

    @property
    def unit(self) -> str:
        """What its values are."""
        return self.table.form(self.mini).unit

    @property
    def columns(self) -> tuple[Column, ...]:
        """What it is measured on."""
        return tuple(column for column in self.table.form(self.mini).columns if column.fits(self.row.how))

    @property
    def folder(self) -> Path:
        """That of its results, and of its run if the run is its own."""
        size = ("mini",) if self.mini else ()
        return self.runs.joinpath(*size, self.table.name, self.row.name, f"seed-{self.seed}")

    @cached_property
    def trained(self) -> RowRun:
        """Whose run it is: its own, or another table's."""
        named = self.row.mini_run if self.mini else self.row.run
        return self if named is None else self._of(named, self.seed).trained

    @property
    def readers(self) -> list[RowRun]:
        """The runs that judge it."""
        found = [reader for column in self.columns if (reader := self.reader(column)) is not None]
        return list({reader.folder: reader for reader in found}.values())

    def reader(self, column: Column) -> RowRun | None:
        """The run that judges it in a column, or gives features; None where there is no such, or it is loaded."""
        judge = column.reader
        return None if judge is None or judge.run is None else self._of(judge.run, judge.seed).trained

    def _of(self, named: str, seed: int) -> RowRun:
        """The place that TABLE/ROW names, of the same size and in the same folder."""
        table, row = named.split("/")
        found = tables.load_table(table)
        return RowRun(found, found.row(row), self.mini, seed, self.runs)

    @property
    def training(self) -> tuple[str, tuple[str, ...]] | None:
        """The recipe of its run and the overrides; None where the model is loaded or quoted."""
        return recipe_of(self.trained.table, self.trained.row, self.mini, self.seed)

    @property
    def source(self) -> str | None:
        """What `--model` is given to measure it; None where it is quoted."""
        return str(self.trained.folder) if self.training else None if self.mini else self.row.model

    @cached_property
    def recipe(self) -> Recipe | None:
        """The recipe of its run as it should be."""
        return load_recipe(*self.training) if self.training else None

    @property
    def weights(self) -> str | None:
        """What tells the weights of its run's last checkpoint from others: the sha256 of the checkpoint's manifest."""
        if self.training is None:
            return None
        mark = self.trained.folder / "latest"
        if not mark.is_file():
            return None
        manifest = self.trained.folder / "checkpoints" / mark.read_text(encoding="utf-8").strip() / MANIFEST
        return sha256_of(manifest) if manifest.is_file() else None

    def train_command(self) -> str | None:
        """What trains its run, word for word, wherever; None where it is not trained."""
        if self.training is None:
            return None
        name, changes = self.training
        return shlex.join(["sedd", "train", name, *changes, "--run-dir", str(self.trained.folder), "--no-report"])

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


def row_runs_of(table: Table, mini: bool, seeds: int, runs: Path) -> dict[str, list[RowRun]]:
    """The rows of a table, each for every seed; of a loaded model likelihoods are the same for all seeds.

    RequestError where the table has no small form.
    """
    if mini and table.mini is None:
        raise RequestError(f"{table.name} has no small form")
    found = {row.name: [RowRun(table, row, mini, s, runs) for s in range(seeds)] for row in _rows(table, mini)}
    return {
        name: of[:1] if of[0].training is None and all(isinstance(c, Likelihood) for c in of[0].columns) else of
        for name, of in found.items()
    }


def _rows(table: Table, mini: bool) -> Iterator[Row]:
    return (row for row in table.rows if not mini or row.small)
