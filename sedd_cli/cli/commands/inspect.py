"""`sedd inspect`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sedd_cli.cli import options as o
from sedd_cli.cli.choose import ModelChoice, choose_model, require_one_process
from sedd_cli.cli.view.findings import findings_table, levels_table
from sedd_cli.cli.view.view import View
from sedd_cli.errors import DamageError
from sedd_cli.system.software import recorded


def inspect(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A run, a checkpoint, a folder or a hub id.")],
    text: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Score this text; default: its own held-out text, else its own samples."),
    ] = None,
    tokenizer: o.Tokenizer = None,
    mask_token: o.MaskToken = None,
    device: o.Device = "auto",
    precision: o.Precision = "fp32",
    seed: o.Seed = 0,
    json: o.Json = False,
    quiet: o.Quiet = False,
) -> None:
    """Check a model: weights, scores, normalisation, guesses of tokens that noise changed, entropy of its samples.

    Weights and scores must be finite, the normaliser near 1 at every noise level, and changed tokens guessed better
    than by their frequency. Exit code 1 if a check is "bad", 0 if it is merely "odd".

    Example: sedd inspect runs/quickstart
    """
    from sedd_cli.evaluation.diagnosis.job import DiagnoseOptions, diagnose

    require_one_process("inspect")
    view = View(json, quiet)
    options = DiagnoseOptions(text, seed)
    chosen = choose_model(view, ModelChoice(model, device, precision, tokenizer, mask_token))
    result = view.run(diagnose(chosen, options))
    if result.levels:
        view.result(levels_table(result))
    view.result(findings_table(result.findings))
    bad = [f"{f['check']} {f['found']}" for f in result.findings if f["state"] == "bad"]
    error = DamageError(f"{model} is not in order: {'; '.join(bad)}") if bad else None
    view.document(recorded(result.to_dict()), error)
    if error:
        raise error
