"""The summary of a table: the paper's values, ours with their errors, the paper's order, the commands for the rest."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from sedd_cli.recipe.build import to_data
from sedd_cli.tables.column import Column
from sedd_cli.tables.frontier import FrontierLine


@dataclass(frozen=True)
class SeedValue:
    """The value of one seed.

    measure: how it was measured, if not as the column prescribes. sign, entropy: as in `Value`.
    """

    seed: int
    value: float
    error: float
    measure: str
    sign: str
    step: int | None
    entropy: float | None = None

    def to_dict(self) -> dict[str, Any]:
        data = asdict(self) | {"bound": self.sign == "≤"}
        if self.entropy is None:
            del data["entropy"]
        return data


@dataclass(frozen=True)
class NumberCell:
    """The mean over seeds.

    error: the standard error from the spread of the seeds; for a single seed, that of the measurement, which does not
    include the difference between seeds. spread: the standard deviation over seeds. difference: to the paper's value.
    entropy, marks: of samples, the mean unigram entropy over seeds, and the marks of any seed. entropy_error: the
    standard error of that mean, from the spread of the seeds; None for a single seed.
    """

    mean: float
    error: float
    spread: float | None
    measure: str
    sign: str
    seeds: tuple[SeedValue, ...]
    difference: float | None = None
    entropy: float | None = None
    entropy_error: float | None = None
    marks: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        data = asdict(self) | {"bound": self.sign == "≤", "marks": list(self.marks)}
        if self.entropy is None:
            del data["entropy"], data["marks"]
        if self.entropy_error is None:
            del data["entropy_error"]
        data["seeds"] = [seed.to_dict() for seed in self.seeds]
        if self.difference is None:
            del data["difference"]
        return data


@dataclass(frozen=True)
class TextCell:
    """Texts of the first seed: {"text", "given"} of each."""

    texts: list[dict[str, Any]]

    def to_dict(self) -> dict[str, Any]:
        return {"texts": self.texts}


@dataclass(frozen=True)
class SeedStatus:
    """What exists of a row for one seed, as in RowStatus."""

    seed: int
    state: str
    message: str


@dataclass(frozen=True)
class Command:
    """A command for what is missing, and its expected cost if known."""

    command: str
    cost: str | None


@dataclass(frozen=True)
class RowSummary:
    """A row. paper, ours: column → value. commands: what is left to do."""

    name: str
    label: str
    left_to_right: bool
    paper: dict[str, float]
    ours: dict[str, NumberCell | TextCell]
    seeds: tuple[SeedStatus, ...] = ()
    commands: tuple[Command, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "label": self.label,
            "left_to_right": self.left_to_right,
            "paper": self.paper,
            "ours": {name: cell.to_dict() for name, cell in self.ours.items()},
            "seeds": [{"seed": seed.seed, "state": seed.state, "said": seed.message} for seed in self.seeds],
            "commands": [asdict(command) for command in self.commands],
        }


@dataclass(frozen=True)
class OrderCheck:
    """Whether the row `lower` has the lower value in a column, as in the paper.

    gap: higher minus lower, ± error, the standard error. reach: half the width of its 95 % interval (Student's t).
    """

    column: str
    lower: str
    higher: str
    lower_label: str
    higher_label: str
    gap: float
    error: float
    seeds: int
    verdict: str
    reach: float


@dataclass(frozen=True)
class ControlValue:
    """Real text or a control beside the samples of a figure: means over its results, and the marks of any."""

    name: str
    perplexity: float
    entropy: float | None
    marks: tuple[str, ...]


@dataclass(frozen=True)
class TableSummary:
    """A table as it is on this machine. seeds: shown; more_seeds: further seeds with results."""

    table: str
    title: str
    mini: bool
    unit: str
    unit_at_full_size: str
    columns: tuple[Column, ...]
    rows: tuple[RowSummary, ...]
    order: tuple[OrderCheck, ...]
    frontier: tuple[FrontierLine, ...]
    seeds: int
    more_seeds: int
    warnings: tuple[str, ...]
    controls: tuple[ControlValue, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """The JSON document of `sedd table`."""
        found = {
            **vars(self),
            "columns": [to_data(column) for column in self.columns],
            "rows": [row.to_dict() for row in self.rows],
            "order": [asdict(check) for check in self.order],
            "frontier": [line.to_dict() for line in self.frontier],
            "warnings": list(self.warnings),
            "controls": [asdict(control) for control in self.controls],
        }
        if not self.controls:
            del found["controls"]
        return found


def numbers(row: RowSummary) -> dict[str, NumberCell]:
    """The cells of a row that hold numbers: column → cell."""
    return {name: cell for name, cell in row.ours.items() if isinstance(cell, NumberCell)}
