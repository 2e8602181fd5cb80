"""A row of a table for one seed: the folders of its run and results, and the commands that make them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from sedd_cli.checkpoints.checkpoint import MANIFEST, latest_name
from sedd_cli.errors import RequestError, shell_command
from sedd_cli.recipe import Recipe, load_recipe
from sedd_cli.system.digests import sha256_of
from sedd_cli.tables import definition as tables
from sedd_cli.tables.column import Column, Likelihood
from sedd_cli.tables.definition import Row, Table, recipe_of

#: The default folder of the runs of tables.
RUNS = Path("runs", "tables")


@dataclass(frozen=True)
class RowRun:
    """A row of a table for one seed. mini: in the small form. runs: the folder of all runs of tables."""

    table: Table
    row: Row
    mini: bool
    seed: int
    runs: Path

    @property
    def label(self) -> str:
        """The label of the row."""
        return self.row.mini_label or self.row.label if self.mini else self.row.label

    @property
    def unit(self) -> str:
        """The unit of its values."""
        return self.table.form(self.mini).unit

    @property
    def columns(self) -> tuple[Column, ...]:
        """The columns in which it is measured."""
        return tuple(column for column in self.table.form(self.mini).columns if column.applies_to(self.row.how))

    @property
    def folder(self) -> Path:
        """The folder of its results, and of its run unless the run belongs to another table."""
        size = ("mini",) if self.mini else ()
        return self.runs.joinpath(*size, self.table.name, self.row.name, f"seed-{self.seed}")

    @cached_property
    def trained(self) -> RowRun:
        """The row run that trains the measured run: itself, or a row of another table."""
        named = self.row.mini_run if self.mini else self.row.run
        return self if named is None else self._of(named, self.seed).trained

    @property
    def scorers(self) -> list[RowRun]:
        """The runs of other rows that score its texts."""
        found = [scorer for column in self.columns if (scorer := self.scorer(column)) is not None]
        return list({scorer.folder: scorer for scorer in found}.values())

    def scorer(self, column: Column) -> RowRun | None:
        """The run that scores its texts in a column; None if no model does, or one that is loaded."""
        judge = column.scorer
        return None if judge is None or judge.run is None else self._of(judge.run, judge.seed).trained

    def _of(self, named: str, seed: int) -> RowRun:
        """The row run of TABLE/ROW, of the same size and in the same folder."""
        table, row = named.split("/")
        found = tables.load_table(table)
        return RowRun(found, found.row(row), self.mini, seed, self.runs)

    @property
    def training(self) -> tuple[str, tuple[str, ...]] | None:
        """The recipe of its run and the overrides; None if the model is loaded or quoted."""
        return recipe_of(self.trained.table, self.trained.row, self.mini, self.seed)

    @property
    def source(self) -> str | None:
        """What `--model` takes to load it; None if it is quoted."""
        return str(self.trained.folder) if self.training else None if self.mini else self.row.model

    @cached_property
    def recipe(self) -> Recipe | None:
        """The recipe that its run must have."""
        return load_recipe(*self.training) if self.training else None

    @property
    def weights(self) -> str | None:
        """sha256 of the manifest of its run's last checkpoint, which identifies the weights."""
        if self.training is None:
            return None
        if (latest := latest_name(self.trained.folder)) is None:
            return None
        manifest = self.trained.folder / "checkpoints" / latest / MANIFEST
        return sha256_of(manifest) if manifest.is_file() else None

    def train_command(self) -> str | None:
        """The command that trains its run on any machine; None if it is not trained."""
        if self.training is None:
            return None
        name, changes = self.training
        return shell_command(["sedd", "train", name, *changes, "--run-dir", str(self.trained.folder), "--no-report"])

    def measure_command(self) -> str | None:
        """The command that measures it, after training it if needed; None if it is quoted."""
        if self.source:
            words = ["sedd", "table", self.table.name.removeprefix("table"), "--run", self.row.name]
            words += ["--mini"] if self.mini else []
            words += ["--seeds", str(self.seed + 1)] if self.seed else []
            words += ["--runs", str(self.runs)] if self.runs != RUNS else []
            return shell_command(words)
        return None

    def result_file(self, column: Column) -> Path:
        """The file of a measurement."""
        return self.folder / "table" / f"{column.name}.json"


def row_runs_of(table: Table, mini: bool, seeds: int, runs: Path) -> dict[str, list[RowRun]]:
    """Row name → its row run for each seed. RequestError if the small form is requested and there is none.

    The likelihood of a loaded model does not depend on the seed: such a row has one row run.
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
