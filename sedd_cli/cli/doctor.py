"""`sedd doctor`."""

from __future__ import annotations

from rich.markup import escape
from rich.table import Table

from sedd_cli.cli import options as o
from sedd_cli.cli.view import View

MARKS = {"ok": "[green]ok[/]", "missing": "[yellow]missing[/]", "optional": "[dim]not there[/]", "bad": "[red]wrong[/]"}


def doctor(json: o.Json = False, quiet: o.Quiet = False) -> None:
    """Check the installation: versions, devices, offline caches, what is missing and how to get it.

    Example: sedd doctor
    """
    from sedd_cli.runs.doctor import examine

    view = View(json, quiet)
    findings = examine()
    table = Table(show_header=True, header_style="bold")
    for name in ("check", "state", "found", "what to do"):
        table.add_column(name, overflow="fold")
    for finding in findings:
        words = (escape(finding[key]) for key in ("found", "advice"))
        table.add_row(finding["check"], MARKS[finding["state"]], *words)
    view.table(table)
    view.document(findings)
