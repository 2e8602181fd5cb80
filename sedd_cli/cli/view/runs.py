"""Lists and comparisons of runs."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table
from rich.text import Text

from sedd_cli.cli.view.curve import COLOURS, Line, chart
from sedd_cli.cli.view.results import plus_minus
from sedd_cli.cli.view.status import WIDEST

if TYPE_CHECKING:
    from sedd_cli.training.runs.compare import Comparison, Verdict
    from sedd_cli.training.runs.summary import RunSummary
    from sedd_cli.training.status import Status

#: Units of an age in seconds, the largest first.
AGES = {"y": 365 * 86400, "d": 86400, "h": 3600, "min": 60, "s": 1}
STYLES = {"running": "green", "failed": "red", "stopped": "yellow"}
#: The least width for what differs in recipes, and the most for names of runs on a narrow screen.
NARROWEST, LONGEST_NAME = 24, 20


def runs_table(runs: list[RunSummary], whole_width: int) -> Table:
    """A table of runs, at most two lines a row; the size is left out where it would leave no room for the recipe."""
    heads = ["run", "recipe", "steps", "bits/char", "size", "state", "age"]
    rows = [_cells(one) for one in runs]
    if _free(heads, rows, whole_width) < NARROWEST:
        heads, rows = heads[:4] + heads[5:], [row[:4] + row[5:] for row in rows]
    widths = [_width(head, [row[i] for row in rows]) for i, head in enumerate(heads)]
    widths[0] = min(widths[0], max(LONGEST_NAME, whole_width // 4))
    widths[1] = max(len(heads[1]), min(widths[1], _free(heads, rows, whole_width)))
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for head, width in zip(heads, widths, strict=True):
        table.add_column(head, width=width, justify="right" if head in ("steps", "size", "age") else "left")
    for one, (name, recipe, *others, state, age_of) in zip(runs, rows, strict=True):
        shown = name if len(name) <= widths[0] else "…" + name[1 - widths[0] :]
        words = Text(state, style=STYLES.get(state, ""))
        table.add_row(shown, _within(recipe, widths[1]), *others, words, age_of, style="" if one.status else "red")
    return table


def _free(heads: list[str], rows: list[list[str]], whole_width: int) -> int:
    """The columns of the screen that the recipe may take."""
    others = [_width(head, [row[i] for row in rows]) for i, head in enumerate(heads)]
    others[0] = min(others[0], max(LONGEST_NAME, whole_width // 4))
    return whole_width - 2 * (len(heads) - 1) - sum(others) + others[1]


def _width(head: str, cells: list[str]) -> int:
    return max(map(len, [head, *(line for cell in cells for line in cell.split("\n"))]))


def _cells(one: RunSummary) -> list[str]:
    found = one.status
    if found is None:
        return [one.name, one.error or "", "", "", "", "unreadable", age(one.age)]
    own = found.recipe if not one.like or one.like.rpartition("/")[2] == found.recipe else f"like {one.like}"
    changes = f"{own}: {', '.join(map(_short, one.changes))}" if one.changes else own
    steps = f"{found.steps:,}" if found.step == found.steps else f"{found.step:,} of\n{found.steps:,}"
    bound = ""
    if found.bound:
        bound = f"{found.bound.sign} {plus_minus(found.bound.bits, found.bound.error, 3)}"
        bound += "" if found.bound.split == "test" else f"\n{found.bound.split}"
    elif found.validation:
        last = found.validation[-1]
        bound = f"{plus_minus(last['bits_per_char'], last['bits_per_char_error'], 3)}\nvalidation"
    return [one.name, changes, steps, bound, size(one.parameters), found.state, age(one.age)]


def _short(change: str) -> str:
    """A difference without the name of its section, where the key is plain without."""
    key, _, value = change.partition("=")
    section, _, last = key.partition(".")
    key = section if last == "name" else last if section in ("train", "model", "data") else key
    return f"{key}={value}"


def comparison_table(found: Comparison, whole_width: int) -> Table:
    """Recipes, bounds and rates side by side."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    keys = list(comparison_rows(found))
    key_width = min(max(map(len, keys)), whole_width // 3)
    width = max(10, (whole_width - key_width) // len(found.runs) - 2)
    table.add_column("", width=key_width, style="dim")
    for number, letter in enumerate(found.letters):
        table.add_column(Text(letter, style=f"bold {COLOURS[number]}"), max_width=width)
    for key, values in comparison_rows(found).items():
        table.add_row(_within(key, key_width), *(_within(value, width) for value in values))
    return table


def draw_comparison(console: Console, found: Comparison) -> None:
    """Whether the bounds differ, and the curves over each other."""
    for one in found.verdicts:
        console.print(Text(spelled(one), style="bold" if one.differ else ""), soft_wrap=False)
    if not found.verdicts:
        say = "no text was evaluated with both: sedd eval --model RUN stores a likelihood in the run"
        console.print(Text(say, style="yellow"))
    shown = [c for c in found.curves if c.smooth]
    if shown:
        lines = [Line(c.smooth, c.marks, c.name) for c in shown]
        levels = {name: value for c in shown[::-1] for name, value in c.levels.items()}
        console.print(chart(lines, levels, max(20, min(console.width - 20, WIDEST)), 14), end="")
        letters = ", ".join(c.name for c in shown)
        circles = "; o: bounds" if any(c.marks for c in shown) else ""
        console.print(Text(" " * 11 + f"{letters}: training loss, smoothed, in {shown[0].unit}{circles}", style="dim"))


def comparison_rows(found: Comparison) -> dict[str, list[str]]:
    """What is compared → a text for each run."""
    rows = {"run": [str(one.run) for one in found.runs]}
    rows["state"] = [_progress(one) for one in found.runs]
    rows |= {key: ["-" if v is None else v for v in values] for key, values in found.recipes.items()}
    for text, bounds in found.bounds.items():
        rows[f"{text}, bits/char"] = [f"{b.sign} {plus_minus(b.bits, b.error, 3)}" if b else "-" for b in bounds]
    rows["parameters"] = [size(n) or "-" for n in found.parameters]
    rows["tokens/s"] = ["-" if rate is None else f"{rate:,.0f}" for rate in found.tokens_per_second]
    return rows


def _progress(one: Status) -> str:
    of = "" if one.step == one.steps else f" of {one.steps:,}"
    return f"{one.step:,}{of} steps, {one.state}"


def spelled(one: Verdict) -> str:
    """A verdict in a sentence."""
    gap = plus_minus(one.difference, one.error, 3)
    said = "they differ" if one.differ else "no difference is shown"
    how = one.test if one.p is None else f"{one.test}, p = {one.p:.2g}, {one.degrees:.0f} degrees of freedom"
    more = f"; {one.remark}" if one.remark else ""
    sign = "+" if one.difference > 0 else ""
    return f"{one.text}: {one.second} - {one.first} = {sign}{gap} bits/char, {said} ({how}){more}"


def size(parameters: int | None) -> str:
    """A number of parameters in short: 5.2M."""
    if parameters is None:
        return ""
    for letter, unit in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if parameters >= unit:
            return f"{parameters / unit:.3g}{letter}"
    return str(parameters)


def age(seconds: float) -> str:
    """An age in its largest unit."""
    unit, length = next(((u, n) for u, n in AGES.items() if seconds >= n), ("s", 1))
    return f"{max(0, seconds) // length:.0f} {unit}"


def _within(text: str, width: int) -> str:
    """A text in at most two lines; the rest is left out."""
    lines = textwrap.wrap(text, width, break_on_hyphens=False, break_long_words=False) or [""]
    if len(lines) > 2:
        lines = [lines[0], lines[1] + " …"]
    lines = [line if len(line) <= width else line[: width - 1] + "…" for line in lines]
    return "\n".join(lines)
