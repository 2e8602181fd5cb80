"""The report as Markdown: a short table for each part, what was skipped or failed at the end."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

TITLE = "# sedd bench report"
COLUMNS = ("what", "value", "unit", "baseline", "ratio", "note")


def markdown(document: dict[str, Any]) -> str:
    """The whole file, from the JSON document."""
    lines = [
        f"{TITLE}: {document['device']}", "",
        f"{document['recipe']} and {document['larger']}, "
        f"{document['seconds']:.0f} of {60 * document['minutes']:.0f} s. "
        f"{document['checks'] - document['checks_failed']} of {document['checks']} checks hold.",
    ]  # fmt: skip
    for table, figures in tables(document).items():
        lines += ["", f"## {table[:1].upper()}{table[1:]}", ""]
        lines += _table(COLUMNS, [row(figure) for figure in figures])
    unfinished = [m for m in document["measurements"] if m["state"] != "done"]
    if unfinished:
        lines += ["", "## Not finished", ""]
        rows = [(m["name"], m["state"], m["reason"]) for m in unfinished]
        lines += _table(("measurement", "state", "reason"), rows)
    return "\n".join(lines) + "\n"


def tables(document: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """The figures by their table, in the order of the measurements."""
    found: dict[str, list[dict[str, Any]]] = {}
    for measurement in document["measurements"]:
        for figure in measurement["figures"]:
            found.setdefault(figure.get("table") or measurement["table"], []).append(figure)
    return found


def row(figure: dict[str, Any]) -> tuple[str, ...]:
    """The cells of a figure: a check shows its tolerance as baseline, and whether it holds as ratio."""
    value, unit = number(figure["value"]), figure.get("unit", "")
    if "tolerance" in figure:
        verdict = "ok" if figure["passed"] else "FAILED"
        return figure["what"], value, unit, f"≤ {number(figure['tolerance'])}", verdict, figure.get("note", "")
    ratio = f"{figure['ratio']:.2f}" if "ratio" in figure else ""
    return figure["what"], value, unit, number(figure.get("baseline", "")), ratio, figure.get("note", "")


def number(value: Any) -> str:
    """Four significant digits; text as it is."""
    if isinstance(value, str | int):
        return str(value)
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> list[str]:
    head = list(head)
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    cells = ([cell.replace("|", "\\|") for cell in row] for row in rows)
    return lines + [f"| {' | '.join(row)} |" for row in cells]
