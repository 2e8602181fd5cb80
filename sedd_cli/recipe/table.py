"""The paper's tables as data: rows, what each is trained by, and the paper's values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import yaml

from sedd_cli.errors import RequestError
from sedd_cli.recipe.build import build, nearest
from sedd_cli.recipe.load import recipes_folder

UNITS = ("perplexity", "bits_per_char")


@dataclass(frozen=True)
class Column:
    """A text that rows are measured on. protocol: of models with scores; others have one of their own."""

    name: str
    dataset: str
    split: str = "test"
    protocol: str = "sedd-paper"


@dataclass(frozen=True)
class Mini:
    """The same table at laptop size: one recipe for all rows, and a text; minutes: of a row on two CPU cores."""

    recipe: str
    columns: tuple[Column, ...]
    unit: str = "bits_per_char"
    minutes: float = 5.0


@dataclass(frozen=True)
class Row:
    """A model. What is neither trained by a recipe nor loaded is quoted from the paper, and not run.

    set: overrides of the recipe. mini: those of the small recipe; None: not among the small rows. paper: column →
    value.
    """

    name: str
    label: str
    recipe: str | None = None
    model: str | None = None
    set: tuple[str, ...] = ()
    mini: tuple[str, ...] | None = None
    paper: Mapping[str, float] | None = None

    def __post_init__(self) -> None:
        if self.recipe is not None and self.model is not None:
            raise ValueError(f"row {self.name}: either a recipe or a model, found both")


@dataclass(frozen=True)
class Table:
    """`order` lists pairs of rows of which the paper finds the first the lower, that is the better."""

    name: str
    title: str
    unit: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    mini: Mini | None = None
    order: tuple[tuple[str, str], ...] = ()

    def __post_init__(self) -> None:
        for unit in (self.unit, *([self.mini.unit] if self.mini else [])):
            if unit not in UNITS:
                raise ValueError(f"unit must be one of {', '.join(UNITS)}, found {unit!r}")
        names = [row.name for row in self.rows]
        if len(set(names)) < len(names):
            raise ValueError(f"rows must have names of their own, found {', '.join(names)}")
        for pair in self.order:
            for name in pair:
                if name not in names:
                    raise ValueError(f"order names the row {name!r}, which is none")

    def row(self, name: str) -> Row:
        """RequestError naming the rows there are."""
        found = next((row for row in self.rows if row.name == name), None)
        if found is None:
            raise RequestError(f"table {self.name} has no row {name!r}{nearest(name, [r.name for r in self.rows])}")
        return found


def shipped_tables() -> dict[str, Path]:
    """The tables that come with the package: name → file."""
    folder = recipes_folder()
    return {p.stem: p for p in sorted(folder.glob("tables/*.yaml"))} if folder else {}


def load_table(name: str) -> Table:
    """A shipped table by its name, or its number; RequestError naming those there are."""
    known = shipped_tables()
    found = known.get(name) or known.get(f"table{name}")
    if found is None:
        raise RequestError(f"no table {name!r}{nearest(name, known)}")
    data = yaml.safe_load(found.read_text(encoding="utf-8"))
    return build(Table, {"name": found.stem, **data}, found.name)


def recipe_of(table: Table, row: Row, mini: bool, seed: int) -> tuple[str, tuple[str, ...]] | None:
    """What `sedd train` is told to make a row: the recipe's name and overrides; None where it is not trained."""
    name, changes = (table.mini.recipe, row.mini) if mini and table.mini else (row.recipe, row.set)
    if name is None or changes is None:
        return None
    return name, (*changes, f"seed={seed}")
