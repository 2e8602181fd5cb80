"""`sedd doctor`."""

from __future__ import annotations

from sedd_cli.cli import options as o
from sedd_cli.cli.view.findings import findings_table
from sedd_cli.cli.view.view import View
from sedd_cli.errors import WorkError


def doctor(json: o.Json = False, quiet: o.Quiet = False) -> None:
    """Check the installation: versions, devices, caches; what is missing and how to get it.

    Exit code 1 if something that is required is missing or bad.

    Example: sedd doctor
    """
    from sedd_cli.evaluation.environment import examine

    view = View(json, quiet)
    findings = examine()
    view.result(findings_table(findings))
    view.document(findings)
    if wrong := [f"{f['check']} {f['found'] or f['state']}" for f in findings if f["state"] in ("missing", "bad")]:
        raise WorkError(f"the installation is not in order: {'; '.join(wrong)}")
