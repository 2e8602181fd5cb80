"""The results of the small tables that come with the package, shown until there are own ones."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from sedd_cli.errors import DamageError
from sedd_cli.recipe.load import recipes_folder
from sedd_cli.system.documents import read_json
from sedd_cli.tables.document import NumberCell, OrderCheck, RowSummary, SeedStatus, SeedValue, TableSummary, TextCell
from sedd_cli.tables.frontier import FrontierLine


def shipped_file(table: str) -> Path | None:
    """The document of a small table that comes with the package, if there is one."""
    folder = recipes_folder()
    file = folder / "mini" / "results" / f"{table}.json" if folder else None
    return file if file and file.is_file() else None


def with_shipped(own: TableSummary) -> TableSummary | None:
    """A small table with the package's results in its cells; None where it has own ones, or none come with it."""
    file = shipped_file(own.table)
    if not own.mini or file is None or any(row.ours for row in own.rows):
        return None
    try:
        document = read_json(file)
        stored = {row["name"]: row for row in document["rows"]}
        return replace(
            own,
            rows=tuple(_row(row, stored[row.name]) if row.name in stored else row for row in own.rows),
            order=tuple(OrderCheck(**check) for check in document["order"]),
            frontier=tuple(FrontierLine(**line) for line in document["frontier"]),
            seeds=document["seeds"],
        )
    except (OSError, KeyError, TypeError, DamageError):  # of another version
        return None


def _row(row: RowSummary, stored: dict[str, Any]) -> RowSummary:
    cells = {name: _cell(cell) for name, cell in stored["ours"].items()}
    return replace(row, ours=cells, seeds=(SeedStatus(0, "shipped", ""),) if cells else row.seeds)


def _cell(stored: dict[str, Any]) -> NumberCell | TextCell:
    if "texts" in stored:
        return TextCell(stored["texts"])
    seeds = tuple(SeedValue(**_signed(seed)) for seed in stored["seeds"])
    return NumberCell(**{**_signed(stored), "seeds": seeds})


def _signed(stored: dict[str, Any]) -> dict[str, Any]:
    """A stored value with its sign, which older documents give as `bound` alone."""
    values = {key: value for key, value in stored.items() if key != "bound"}
    return {"sign": "≤" if stored["bound"] else "", **values}
