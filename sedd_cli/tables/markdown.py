"""A table summary as Markdown, and the wording that it shares with the other views."""

from __future__ import annotations

from typing import Any

from sedd_cli.errors import plus_minus, printable
from sedd_cli.tables.column import Quality
from sedd_cli.tables.document import NumberCell, RowSummary, TableSummary, TextCell


def digits(unit: str) -> int:
    """The number of decimals of our values."""
    return 1 if unit == "generative_perplexity" else 3


def samples_of(found: TableSummary) -> str:
    """The samples and the judge of a figure, in words."""
    column = found.columns[0]
    assert isinstance(column, Quality)
    judge = column.judge.source or f"an autoregressive run, seed {column.judge.seed}"
    return f"{column.n} samples of {column.length} tokens, perplexity per token to {judge}"


def entropy_of(cell: NumberCell) -> str:
    """The entropy that stands beside a perplexity, and its marks; "" for other values."""
    if cell.entropy is None:
        return ""
    return ", ".join([f"entropy {plus_minus(cell.entropy, cell.entropy_error, 2)}", *cell.marks])


def controls_of(found: TableSummary) -> list[str]:
    """Real text and controls beside the samples of a figure, a line each."""
    return [
        f"{control.name}: perplexity {control.perplexity:.1f}"
        + ("" if control.entropy is None else f", entropy {control.entropy:.2f}")
        + "".join(f", {mark}" for mark in control.marks)
        for control in found.controls
    ]


def papers(found: TableSummary) -> list[str]:
    """The columns in which the paper has a value for some row."""
    return list(dict.fromkeys(name for row in found.rows for name in row.paper))


def printed(value: float | None) -> str:
    """A value of the paper with two decimals, or with as many as the paper gives."""
    return "" if value is None else f"{value:.2f}" if round(value, 2) == value else f"{value:g}"


def markdown(found: TableSummary) -> str:
    """The paper's values and ours as a Markdown table; control characters are spelled, as in every table."""
    names = [column.name for column in found.columns]
    heads = ["model", *(f"{name}: paper" for name in papers(found)), *(f"{name}: ours" for name in names)]
    lines = [f"| {' | '.join(heads)} |", f"|{'---|' * len(heads)}"]
    for row in found.rows:
        cells = [row.label, *(printed(row.paper.get(name)) for name in papers(found))]
        cells += [_ours(row, name, digits(found.unit)) for name in names]
        lines.append(f"| {' | '.join(cells)} |")
    return printable("\n".join([*lines, *(f"\n{line}" for line in controls_of(found))]))


def _ours(row: RowSummary, name: str, digits: int) -> str:
    cell = row.ours.get(name)
    if cell is None:
        return "" if row.ours else row.seeds[0].message or row.seeds[0].state
    if isinstance(cell, TextCell):
        return _given_in_bold(cell.texts[0]).replace("|", "\\|").replace("\n", " ⏎ ")
    number = (f"{cell.sign} " if cell.sign else "") + plus_minus(cell.mean, cell.error, digits)
    seeds = f"{len(cell.seeds)} seeds" if len(cell.seeds) > 1 else ""
    details = ", ".join(part for part in (cell.measure, seeds, entropy_of(cell)) if part)
    return number + (f" ({details})" if details else "")


def _given_in_bold(one: dict[str, Any]) -> str:
    text, at, parts = one["text"] or "", 0, []
    for start, end in one["given"]:
        parts += [text[at:start], f"**{text[start:end]}**"]
        at = end
    return "".join([*parts, text[at:]])
