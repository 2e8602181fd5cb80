"""`sedd doctor`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from sedd_cli.cli import options as o
from sedd_cli.cli.view.results import plus_minus
from sedd_cli.cli.view.view import View
from sedd_cli.errors import DamageError, RequestError

MARKS = {
    "ok": "[green]ok[/]", "odd": "[yellow]odd[/]", "missing": "[yellow]missing[/]", "optional": "[dim]not there[/]",
    "bad": "[red]bad[/]",
}  # fmt: skip


def doctor(
    model: Annotated[
        str | None, typer.Option("--model", "-m", help="Check this model instead: anything that --model takes.")
    ] = None,
    text: Annotated[
        Path | None,
        typer.Option(help="With --model: score this file; default: its own held-out text, else its own samples."),
    ] = None,
    tokenizer: o.Tokenizer = None,
    device: o.Device = "auto",
    precision: o.Precision = "fp32",
    seed: o.Seed = 0,
    json: o.Json = False,
    quiet: o.Quiet = False,
) -> None:
    """Check the installation (versions, devices, offline caches), or with --model a checkpoint.

    A checkpoint is in order where its weights and scores are finite, its normaliser is near 1 at every noise level, and
    it guesses hidden tokens; exit code 1 where something is wrong, 0 where it is merely odd.

    Example: sedd doctor --model runs/quickstart
    """
    view = View(json, quiet)
    if model is not None:
        return _check_model(view, model, text, tokenizer, device, precision, seed)
    if text is not None:
        raise RequestError("--text goes with --model")
    from sedd_cli.cli.environment import examine

    findings = examine()
    view.table(_findings(findings))
    view.document(findings)


def _check_model(
    view: View, named: str, text: Path | None, tokenizer: str | None, device: str, precision: str, seed: int
) -> None:
    from sedd_cli.cli.choose import choose_model
    from sedd_cli.evaluation.diagnosis.job import DiagnoseOptions, diagnose
    from sedd_cli.system.events import Finished

    chosen = choose_model(view, named, device, precision, tokenizer)
    events = view.follow(diagnose(chosen, DiagnoseOptions(text, seed)))
    found = next(event.result for event in events if isinstance(event, Finished))
    if found["levels"]:
        view.table(_levels(found))
    view.table(_findings(found["findings"]))
    view.document(found)
    if wrong := [f for f in found["findings"] if f["state"] == "bad"]:
        raise DamageError(f"{named} is not in order: {'; '.join(f['check'] + ' ' + f['found'] for f in wrong)}")


def _findings(findings: list[dict[str, str]]) -> Table:
    table = Table(show_header=True, header_style="bold")
    for name in ("check", "state", "found", "what to do"):
        table.add_column(name, overflow="fold")
    for finding in findings:
        words = (escape(finding[key]) for key in ("found", "advice"))
        table.add_row(finding["check"], MARKS[finding["state"]], *words)
    return table


def _levels(found: dict[str, Any]) -> Table:
    """What the scores come to by noise level."""
    caption = (
        "normaliser: 1 if scores are those of a distribution, in the mean, with MASK at every position; "
        "guessed: of the tokens that noise hid"
    )
    table = Table(title=f"scores on {escape(found['text'])}", caption=caption, header_style="bold")
    table.title_justify = table.caption_justify = "left"
    for name in ("noise", "hidden", "normaliser", "5–95 %", "guessed", "log-scores"):
        table.add_column(name, justify="right", no_wrap=True)
    for level in found["levels"]:
        cells = [f"{level['lambda']:.0%}", f"{level['moved']:,}"]
        if mean := level["normaliser"]:
            cells += [plus_minus(mean["mean"], mean["error"], 3), f"{mean['p5']:.2f}–{mean['p95']:.2f}"]
            cells += [f"{level['guessed'] / level['moved']:.1%}" if level["moved"] else "-"]
            cells += ["{:.1f} … {:.1f}".format(*level["log_score"])]
        else:
            cells += ["-" if level["finite"] else "[red]not finite[/]"]
        table.add_row(*cells)
    return table
