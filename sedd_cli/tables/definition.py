"""The paper's tables and figures as data: rows, what each is made by, what is measured, and the paper's values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from sedd_cli.errors import RequestError
from sedd_cli.recipe.build import build, nearest
from sedd_cli.recipe.load import recipes_folder
from sedd_cli.tables.column import UNITS, Column, How


@dataclass(frozen=True)
class Mini:
    """The same table at laptop size. recipe: of the rows that are trained for it; minutes: of one on two CPU cores."""

    columns: tuple[Column, ...]
    unit: str
    recipe: str | None = None
    minutes: float = 5.0


@dataclass(frozen=True)
class Row:
    """A model. What is neither trained by a recipe nor loaded nor another table's is quoted, and not run.

    set: overrides of the recipe. run: TABLE/ROW whose run is measured here too. mini: overrides of the small recipe;
    mini_run: as run; neither: not among the small rows. mini_label: what it is called there. paper: column → value.
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
    how: How = field(default_factory=How)
    paper: Mapping[str, float] | None = None

    def __post_init__(self) -> None:
        if sum(found is not None for found in (self.recipe, self.model, self.run)) > 1:
            raise ValueError(f"row {self.name}: either a recipe, a model or a run")
        if self.mini is not None and self.mini_run is not None:
            raise ValueError(f"row {self.name}: either mini or mini_run")

    @property
    def small(self) -> bool:
        """Whether it is among the small rows."""
        return self.mini is not None or self.mini_run is not None


@dataclass(frozen=True)
class Table:
    """`order` lists pairs of rows of which the paper finds the first the lower. unit: of UNITS, which says what the
    columns are."""

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
                raise ValueError(f"{kind} must have names of their own, found {', '.join(found)}")
        for row in self.rows:
            if row.mini is not None and (self.mini is None or self.mini.recipe is None):
                raise ValueError(f"row {row.name}: mini changes a recipe, and the small form names none")
            told = {name for name, value in vars(row.how).items() if value != getattr(How(), name)}
            for column in (column for form in self.forms for column in form.columns):
                if meaningless := told - column.reads:
                    raise ValueError(f"row {row.name}: {', '.join(sorted(meaningless))} means nothing in {column.name}")
        for pair in self.order:
            for name in pair:
                if name not in names:
                    raise ValueError(f"order names the row {name!r}, which is none")

    def form(self, mini: bool) -> Table | Mini:
        """What has its columns and unit: the table itself, or its small form."""
        return self.mini if mini and self.mini else self

    @property
    def forms(self) -> tuple[Table | Mini, ...]:
        """The table at full size, and at laptop size if there is one."""
        return (self,) if self.mini is None else (self, self.mini)

    def row(self, name: str) -> Row:
        """By its name, or what it is called; RequestError naming the rows there are."""
        known = {called.lower(): row for row in self.rows for called in (row.mini_label, row.label) if called}
        found = (known | {row.name: row for row in self.rows}).get(name.lower())
        if found is None:
            raise RequestError(f"{self.name} has no row {name!r}{nearest(name, [r.name for r in self.rows])}")
        return found


def shipped_tables() -> dict[str, Path]:
    """The tables that come with the package: name → file."""
    folder = recipes_folder()
    return {p.stem: p for p in sorted(folder.glob("tables/*.yaml"))} if folder else {}


def load_table(name: str) -> Table:
    """A shipped table by its name, or its number; RequestError naming those there are."""
    known, name = shipped_tables(), name.lower()
    found = known.get(name) or known.get(f"table{name}")
    if found is None:
        raise RequestError(f"no table {name!r}{nearest(name, known)}")
    data = yaml.safe_load(found.read_text(encoding="utf-8"))
    return build_table({"name": found.stem, **data}, found.name)


def build_table(data: Mapping[str, Any], path: str) -> Table:
    """A table from plain data; RequestError naming the key that is wrong."""
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
        raise RequestError(f"{path}: the unit must be one of {', '.join(UNITS)}, found {unit!r}")
    if not isinstance(data, list) or not data:
        raise RequestError(f"{path}: expected a list, found {data!r}")
    return tuple(build(UNITS[unit], one, f"{path}[{at}]") for at, one in enumerate(data))


def recipe_of(table: Table, row: Row, mini: bool, seed: int) -> tuple[str, tuple[str, ...]] | None:
    """What `sedd train` is told to make a row: the recipe's name and overrides; None where it is not trained."""
    name, changes = (table.mini.recipe, row.mini) if mini and table.mini else (row.recipe, row.set)
    if name is None or changes is None:
        return None
    return name, (*changes, f"seed={seed}")
