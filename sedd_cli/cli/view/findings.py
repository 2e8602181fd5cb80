"""Tables of `sedd doctor` and `sedd inspect`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.table import Table
from rich.text import Text

from sedd_cli.errors import plus_minus

if TYPE_CHECKING:
    from sedd_cli.evaluation.diagnosis.results import Diagnosis

#: States of a check, coloured.
MARKS = {
    "ok": ("ok", "green"), "odd": ("odd", "yellow"), "missing": ("missing", "yellow"), "optional": ("not there", "dim"),
    "bad": ("bad", "red"),
}  # fmt: skip


def findings_table(findings: Sequence[Mapping[str, Any]]) -> Table:
    """A row for each check with its state and what was found, and one below it with what to do, if anything."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for name in ("check", "state"):
        table.add_column(name, no_wrap=True)
    table.add_column("found", overflow="fold")
    for finding in findings:
        table.add_row(finding["check"], Text(*MARKS[finding["state"]]), finding["found"])
        if finding["advice"]:
            table.add_row("", "", Text(f"→ {finding['advice']}", "dim"))
    return table


def levels_table(found: Diagnosis) -> Table:
    """Normaliser, guessed tokens and log-scores by noise level."""
    caption = (
        "normaliser: mean over scored positions, 1 for the scores of a distribution; "
        "guessed: share of the tokens that noise changed"
    )
    table = Table(title=f"scores on {found.text or ''}", caption=caption, header_style="bold")
    table.title_justify = table.caption_justify = "left"
    for name in ("noise", "changed", "normaliser", "5–95 %", "guessed", "log-scores"):
        table.add_column(name, justify="right", no_wrap=True)
    for level in found.levels:
        cells: list[str | Text] = [f"{level.lam:.0%}", f"{level.moved:,}"]
        if (mean := level.normaliser) and level.log_score:
            cells += [plus_minus(mean.mean, mean.error, 3), f"{mean.p5:.2f}–{mean.p95:.2f}"]
            cells += [f"{level.guessed / level.moved:.1%}" if level.moved else "-"]
            cells += ["{:.1f} … {:.1f}".format(*level.log_score)]
        else:
            cells += ["-" if level.finite else Text("not finite", "red")]
        table.add_row(*cells)
    return table
