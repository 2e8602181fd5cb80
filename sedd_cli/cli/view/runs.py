"""Lists and comparisons of runs."""

from __future__ import annotations

import math
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table
from rich.text import Text

from sedd_cli.cli.view.curve import COLOURS
from sedd_cli.cli.view.status import draw_curves
from sedd_cli.cli.view.two_lines import INDENT, as_many, shortened_to, two_lines
from sedd_cli.errors import plus_minus

if TYPE_CHECKING:
    from sedd_cli.training.runs.compare import Comparison, Verdict
    from sedd_cli.training.runs.series import SeriesPoint
    from sedd_cli.training.runs.stored import StoredBound
    from sedd_cli.training.runs.summary import RunSummary
    from sedd_cli.training.status import Status

#: Units of an age in seconds, the largest first.
AGES = {"y": 365 * 86400, "d": 86400, "h": 3600, "min": 60, "s": 1}
#: Columns of a run in a comparison: "≤ 3.390 ± <0.0005" and one more.
NARROWEST = 18
STYLES = {"running": "green", "failed": "red", "stopped": "yellow"}


def runs_list(runs: list[RunSummary], width: int) -> Text:
    """Runs, two lines each: how far and how good they are, and what is trained on what."""
    texts = {text for one in runs if (text := _text(one))}
    rows = [(_values(one), _below(one, len(texts) > 1, width - len(INDENT))) for one in runs]
    found = two_lines(["run", "steps", "bits/char", "size", "state", "age"], rows, width, ("steps", "size", "age"))
    return found.append(f"\nbits/char are of {texts.pop()}", "dim") if len(texts) == 1 else found


def _values(one: RunSummary) -> list[Text]:
    found = one.status
    if found is None:
        return [Text(cell) for cell in (one.name, "", "", "", "unreadable", age(one.age))]
    steps = f"{found.steps:,}" if found.step == found.steps else f"{found.step:,} of {found.steps:,}"
    last = _last(found)
    bits = f"{last.sign} {plus_minus(last.bits, last.error, 3)}" if last else ""
    cells = [Text(cell) for cell in (one.name, steps, bits, size(one.parameters))]
    return [*cells, Text(found.state, STYLES.get(found.state, "")), Text(age(one.age))]


def _last(found: Status) -> StoredBound | SeriesPoint | None:
    """The likelihood that a run is listed with: the stored one, else the last validation."""
    return found.bound or next((marks[-1] for marks in found.series.values()), None)


def _text(one: RunSummary) -> str:
    """The text of the likelihood in the list; "" without one."""
    from sedd_cli.training.runs.series import part_name

    found = one.status
    if found is None or _last(found) is None:
        return ""
    if found.bound:
        return f"{found.bound.corpus} {part_name(found.bound.split, found.bound.part)}"
    return f"{Path(found.corpus).stem} {next(iter(found.series))}"


def _below(one: RunSummary, with_text: bool, width: int) -> str:
    """The second line: text of the likelihood where others are of others, its step if not the last; recipe, changes."""
    found = one.status
    if found is None:
        return shortened_to(one.error or "", width)
    own = found.recipe if not one.like or one.like.rpartition("/")[2] == found.recipe else f"like {one.like}"
    where = [f"on {_text(one)}"] if with_text and _text(one) else []
    if (last := _last(found)) and last.step != found.step:
        where.append(f"at step {last.step:,}")
    text = " ".join(where) + "; " * bool(where)
    lead = f"{text}{own}: " if one.changes else f"{text}{own}"
    return shortened_to(lead + as_many(list(map(_short, one.changes)), width - len(lead)), width)


def _short(change: str) -> str:
    """A difference without the name of its section, where the key is plain without."""
    key, _, value = change.partition("=")
    section, _, last = key.partition(".")
    key = section if last == "name" else last if section in ("train", "model", "data") else key
    return f"{key}={value}"


def comparison_tables(found: Comparison, whole_width: int) -> list[Table]:
    """Recipes, bounds and rates side by side: as many runs in a table as have room for whole likelihoods."""
    rows = comparison_rows(found)
    key_width = min(max(map(len, rows)), whole_width // 3)
    most = max(1, (whole_width - key_width) // (NARROWEST + 2))
    count = math.ceil(len(found.runs) / math.ceil(len(found.runs) / most))
    width = max(10, (whole_width - key_width) // count - 2)
    tables = []
    for start in range(0, len(found.runs), count):
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
        table.add_column("", width=key_width, style="dim")
        for number, letter in list(enumerate(found.letters))[start : start + count]:
            table.add_column(Text(letter, style=f"bold {COLOURS[number]}"), max_width=width)
        for key, values in rows.items():
            table.add_row(_within(key, key_width), *(_within(one, width) for one in values[start : start + count]))
        tables.append(table)
    return tables


def draw_comparison(console: Console, found: Comparison) -> None:
    """Whether the bounds differ, and the curves over each other."""
    for one in found.verdicts:
        console.print(Text(spelled(one), style="bold" if one.differ else ""), soft_wrap=False)
    if not found.verdicts:
        say = "no text was evaluated with both: sedd eval --model RUN stores a likelihood in the run"
        console.print(Text(say, style="yellow"))
    shown = [c for c in found.curves if c.smooth]
    if shown:
        draw_curves(console, shown, 14)


def comparison_rows(found: Comparison) -> dict[str, list[str]]:
    """What is compared → a text for each run."""
    rows = {"run": [str(one.run) for one in found.runs]}
    rows["state"] = [_progress(one) for one in found.runs]
    rows |= {key: ["-" if v is None else v for v in values] for key, values in found.recipes.items()}
    for text, bounds in found.bounds.items():
        rows[f"{text}, bits/char"] = [_bits(b, one) if b else "-" for b, one in zip(bounds, found.runs, strict=True)]
    rows["parameters"] = [size(n) or "-" for n in found.parameters]
    rows["tokens/s"] = ["-" if rate is None else f"{rate:,.0f}" for rate in found.tokens_per_second]
    return rows


def _bits(bound: StoredBound, one: Status) -> str:
    """A likelihood of a run, with its step where that is not the last one."""
    earlier = "" if bound.step == one.step else f" at step {bound.step:,}"
    return f"{bound.sign} {plus_minus(bound.bits, bound.error, 3)}{earlier}"


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
