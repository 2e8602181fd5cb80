"""What `sedd table` shows."""

from __future__ import annotations

from typing import Any

from rich.console import Group
from rich.table import Table as Grid
from rich.text import Text

from sedd_cli.cli.view.view import View
from sedd_cli.errors import plus_minus
from sedd_cli.tables.column import Filling, Likelihood, Mauve
from sedd_cli.tables.document import NumberCell, RowSummary, TableSummary, TextCell
from sedd_cli.tables.markdown import controls_of, digits, entropy_of, papers, printed, samples_of

#: The paper's columns that stand beside ours; where there are more, they stand above them, at laptop size nowhere.
MOST = 2


def show(view: View, found: TableSummary, shipped: bool = False) -> None:
    """The table, whether the order holds, what was not counted, and the commands for the rest.

    shipped: the results come with the package.
    """
    shape = {"text": _texts, "generative_perplexity": _steps}.get(found.unit, _grid)
    view.result(shape(found))
    if found.unit == "generative_perplexity":
        view.say(samples_of(found), "dim")
        for line in controls_of(found):
            view.say(line, "dim")
    if found.seeds > 1 and found.unit != "text":
        view.say(f"± is the standard error by {found.seeds} seeds", "dim")
    for entry in found.order:
        gap = plus_minus(entry.gap, entry.error, digits(found.unit))
        where = f" on {entry.column}" if len(found.columns) > 1 else ""
        # one seed does not show how seeds differ
        verdict = entry.verdict + (" for one seed" if entry.seeds == 1 and "seed" not in entry.verdict else "")
        style = "" if entry.verdict == "holds" else "yellow"
        view.say(f"{entry.lower_label} below {entry.higher_label}{where}: {verdict}, by {gap}", style)
    for entry in found.frontier:
        line = f"slope {entry.slope:.2f} in logarithms, which a line explains to {entry.explained:.0%}"
        reached = (f"{n} reached in {s} steps" if s else f"{n} not reached" for n, s in entry.matches.items())
        view.say(f"{entry.label}: {'; '.join([line, *reached])}")
    if more := found.more_seeds:
        view.say(f"more seeds exist: --seeds {found.seeds + more} shows them", "yellow")
    for line in found.warnings:
        view.say(f"warning: {line}", "yellow")
    commands = {entry.command: entry.cost for row in found.rows for entry in row.commands}
    if commands:
        values = "values of your own" if shipped else "missing values"
        view.say(f"For {values} (--run all runs everything; `sedd train` lines are for training elsewhere):")
        for command, cost in commands.items():
            view.say(f"  {command}" + (f"   # {cost}" if cost else ""), "cyan")


def _title(found: TableSummary) -> str:
    texts = {
        c.dataset if isinstance(c, Likelihood) else c.references
        for c in found.columns
        if isinstance(c, Likelihood | Mauve)
    }
    on = f"{texts.pop()}, " if len(texts) == 1 else ""
    size = f"; here {on}at laptop size" if found.mini else ""
    if found.unit != found.unit_at_full_size:
        size += f", {found.unit.replace('_', ' ').replace(' char', ' character')}"
    return found.title + size


def _grid(found: TableSummary) -> Grid:
    """The paper's values beside ours; above them where there are many columns."""
    grid = Grid(title=_title(found), title_justify="left", header_style="bold", show_lines=_stacked(found))
    grid.add_column("model", min_width=14)
    beside = papers(found) if len(papers(found)) <= MOST else []
    for name in beside:
        grid.add_column(f"{name}, paper", justify="right")
    for column in found.columns:
        grid.add_column(f"{column.name}, ours" if beside else column.name, justify="right")
    for row in found.rows:
        cells = [printed(row.paper.get(name)) for name in beside]
        grid.add_row(_named(row), *cells, *(_cell(row, column.name, found) for column in found.columns))
    return grid


def _steps(found: TableSummary) -> Grid:
    """A figure's values: a line for each number of steps, a column for each model."""
    grid = Grid(title=_title(found), title_justify="left", header_style="bold")
    grid.add_column("steps", justify="right")
    for row in found.rows:
        grid.add_column(_named(row), justify="right")
    for column in found.columns:
        grid.add_row(column.name, *(_cell(row, column.name, found) for row in found.rows))
    return grid


def _stacked(found: TableSummary) -> bool:
    """Whether the paper's value and ours stand in one cell."""
    return not found.mini and len(papers(found)) > MOST


def _named(row: RowSummary) -> Text:
    """What a row is called, and why it has no value, or not all."""
    said = row.seeds[0].message
    return Text(row.label).append(f"\n{said}" if said else "", style="dim")


def _cell(row: RowSummary, name: str, found: TableSummary) -> str:
    paper = printed(row.paper.get(name)) if _stacked(found) else ""
    value = row.ours.get(name)
    if not isinstance(value, NumberCell):
        return paper
    text = (f"{value.sign} " if value.sign else "") + plus_minus(value.mean, value.error, digits(found.unit))
    seeds = len(value.seeds)
    many = f" ({seeds} seed{'s' if seeds > 1 else ''})" if 1 < found.seeds != seeds else ""
    change = f" ({value.difference:+.2f})" if value.difference is not None else ""
    ours = text + change + many + "".join(f", {part}" for part in (value.measure, entropy_of(value)) if part)
    return f"{paper}\nours {ours}" if paper else ours


def _texts(found: TableSummary) -> Grid:
    """Texts one below the other, what was given in blue."""
    grid = Grid(title=_title(found), title_justify="left", header_style="bold", show_lines=True)
    for name in ("model", "given", "text"):
        grid.add_column(name)
    for row in found.rows:
        for at, column in enumerate(found.columns):
            cell = row.ours.get(column.name)
            texts = cell.texts if isinstance(cell, TextCell) else []
            template = column.template if isinstance(column, Filling) else ""
            asked = Text(column.name).append(f"\n{template}", style="dim")
            grid.add_row(_named(row) if at == 0 else "", asked, Group(*map(_marked, texts)))
    return grid


def _marked(one: dict[str, Any]) -> Text:
    text = Text(one["text"] or "")
    for start, end in one["given"]:
        text.stylize("bold blue", start, end)
    return text
