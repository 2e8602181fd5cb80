"""`sedd doctor`."""

from __future__ import annotations

from sedd_cli.cli import options as o
from sedd_cli.cli.view.findings import findings_table
from sedd_cli.cli.view.view import View


def doctor(json: o.Json = False, quiet: o.Quiet = False) -> None:
    """Check the installation: versions, devices, caches; what is missing and how to get it.

    Example: sedd doctor
    """
    from sedd_cli.evaluation.environment import examine

    view = View(json, quiet)
    findings = examine()
    view.result(findings_table(findings))
    view.document(findings)
