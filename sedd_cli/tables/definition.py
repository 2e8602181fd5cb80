"""Tables and figures as data, as in recipes/tables/*.yaml: columns, rows, the paper's values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from sedd_cli.errors import RequestError, not_one_of
from sedd_cli.recipe.build import build, nearest
from sedd_cli.recipe.load import recipes_folder
from sedd_cli.tables.column import UNITS, Column, RowSampling


@dataclass(frozen=True)
class Mini:
    """The same table at laptop size.

    recipe: the recipe of the rows that are trained. minutes: expected training time of a row on two CPU cores.
    """

    columns: tuple[Column, ...]
    unit: str
    recipe: str | None = None
    minutes: float = 5.0


@dataclass(frozen=True)
class Row:
    """A model of a table. A row with none of recipe, model and run is quoted from the paper and never run.

    recipe, set: the recipe that trains it, and overrides. model: a model to load, as `--model`. run: TABLE/ROW of
    another table whose run is measured here. mini: overrides of the recipe of the small form. mini_run: as run, in the
    small form. A row with neither is not in the small form. mini_label: the label there. paper: column → value.
    """

    name: str
    label: str
    recipe: str | None = None
    model: str | None = None
    run: str | None = None
    set: tuple[str, ...] = ()
    mini: tuple[str, ...] | None = None
    mini_run: str | None = None
    mini_label: str | None = None
    how: RowSampling = field(default_factory=RowSampling)
    paper: Mapping[str, float] | None = None

    def __post_init__(self) -> None:
        if sum(found is not None for found in (self.recipe, self.model, self.run)) > 1:
            raise ValueError(f"row {self.name}: recipe, model and run exclude each other")
        if self.mini is not None and self.mini_run is not None:
            raise ValueError(f"row {self.name}: mini and mini_run exclude each other")

    @property
    def small(self) -> bool:
        """Whether the row is in the small form."""
        return self.mini is not None or self.mini_run is not None


@dataclass(frozen=True)
class Table:
    """A table or figure of the paper.

    unit: a key of UNITS, which determines the class of the columns. mini: the small form. order: pairs of rows; in the
    paper the first has the lower value.
    """

    name: str
    title: str
    unit: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    mini: Mini | None = None
    order: tuple[tuple[str, str], ...] = ()

    def __post_init__(self) -> None:
        names = [row.name for row in self.rows]
        for kind, found in (("rows", names), *(("columns", [c.name for c in form.columns]) for form in self.forms)):
            if len(set(found)) < len(found):
                raise ValueError(f"{kind} must have different names, found {', '.join(found)}")
        for row in self.rows:
            if row.mini is not None and (self.mini is None or self.mini.recipe is None):
                raise ValueError(f"row {row.name}: mini overrides a recipe, but the small form has no recipe")
            chosen = {name for name, value in vars(row.how).items() if value != getattr(RowSampling(), name)}
            for column in (column for form in self.forms for column in form.columns):
                if unused := chosen - column.uses:
                    raise ValueError(f"row {row.name}: {', '.join(sorted(unused))} has no effect in {column.name}")
        for pair in self.order:
            for name in pair:
                if name not in names:
                    raise ValueError(f"order: no row {name!r}. Accepted: {', '.join(names)}")

    def form(self, mini: bool) -> Table | Mini:
        """The table itself, or its small form if `mini` and if it has one."""
        return self.mini if mini and self.mini else self

    @property
    def forms(self) -> tuple[Table | Mini, ...]:
        """The table at full size, and at laptop size if there is one."""
        return (self,) if self.mini is None else (self, self.mini)

    def row(self, name: str) -> Row:
        """A row by its name or label, in any case. RequestError if there is none."""
        known = {label.lower(): row for row in self.rows for label in (row.mini_label, row.label) if label}
        found = (known | {row.name: row for row in self.rows}).get(name.lower())
        if found is None:
            raise RequestError(f"{self.name} has no row {name!r}{nearest(name, [r.name for r in self.rows])}")
        return found


def shipped_tables() -> dict[str, Path]:
    """The tables of the package: name → file."""
    folder = recipes_folder()
    return {p.stem: p for p in sorted(folder.glob("tables/*.yaml"))} if folder else {}


def load_table(name: str) -> Table:
    """A table of the package by its name or number. RequestError if there is none."""
    known, name = shipped_tables(), name.lower()
    found = known.get(name) or known.get(f"table{name}")
    if found is None:
        raise RequestError(f"no table {name!r}{nearest(name, known)}")
    data = yaml.safe_load(found.read_text(encoding="utf-8"))
    return build_table({"name": found.stem, **data}, found.name)


def build_table(data: Mapping[str, Any], path: str) -> Table:
    """A table from plain data. RequestError names the wrong key."""
    data = dict(data)
    unit, small = data.get("unit"), data.pop("mini", None)
    given: dict[str, Any] = {"columns": _columns(data.pop("columns", None), unit, f"{path}: columns"), "mini": None}
    if small is not None:
        small = {"unit": unit, **small}
        columns = _columns(small.pop("columns", None), small["unit"], f"{path}: mini.columns")
        given["mini"] = build(Mini, small, f"{path}: mini", columns=columns)
    return build(Table, data, path, **given)


def _columns(data: Any, unit: Any, path: str) -> tuple[Column, ...]:
    if unit not in UNITS:
        raise RequestError(not_one_of(f"{path}: the unit", UNITS, unit))
    if not isinstance(data, list) or not data:
        raise RequestError(f"{path}: expected a list, found {data!r}")
    return tuple(build(UNITS[unit], one, f"{path}[{at}]") for at, one in enumerate(data))


def recipe_of(table: Table, row: Row, mini: bool, seed: int) -> tuple[str, tuple[str, ...]] | None:
    """The recipe's name and the overrides that train a row; None if it is not trained."""
    name, changes = (table.mini.recipe, row.mini) if mini and table.mini else (row.recipe, row.set)
    if name is None or changes is None:
        return None
    return name, (*changes, f"seed={seed}")
