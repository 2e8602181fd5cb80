"""`sedd export`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sedd_cli.cli import options as o
from sedd_cli.cli.choose import ModelChoice, choose_model, require_one_process
from sedd_cli.cli.next_commands import say_commands
from sedd_cli.cli.outcome import output
from sedd_cli.cli.view.view import View
from sedd_cli.system.software import recorded


def export(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A run, a checkpoint, a folder or a hub id.")],
    to: Annotated[Path | None, typer.Option(metavar="FOLDER", help="The folder to write.")] = None,
    half: Annotated[bool, typer.Option("--half", help="Weights in bf16: half the size, rounded scores.")] = False,
    push: Annotated[str | None, typer.Option(metavar="OWNER/NAME", help="Upload it to the Hugging Face hub.")] = None,
    private: Annotated[bool, typer.Option("--private", help="With --push: a private repository.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="With --push: list what would be uploaded.")] = False,
    transformers: Annotated[
        bool, typer.Option("--transformers", help="The layout that transformers opens; any kind of model.")
    ] = False,
    tokenizer: o.Tokenizer = None,
    mask_token: o.MaskToken = None,
    json: o.Json = False,
    quiet: o.Quiet = False,
) -> None:
    """Write a model in the published layout: config.json, model.safetensors and a model card.

    The published code and every --model option read it. The weights are the averaged (EMA) ones of a run.

    The published layout holds SEDD alone. With --transformers, models of all objectives and of other projects are
    written so that AutoModelForMaskedLM of transformers opens them, or AutoModelForCausalLM an autoregressive one.

    Example: sedd export runs/quickstart --to exported
    """
    from sedd_cli.checkpoints.export import ExportOptions
    from sedd_cli.checkpoints.export import export as job

    require_one_process("export")
    view = View(json, quiet)
    options = ExportOptions(to, half, push, private, dry_run, transformers)
    chosen = choose_model(view, ModelChoice(model, "cpu", "fp32", tokenizer, mask_token))
    result = view.run(job(chosen, options))
    output.stored = not dry_run
    view.document(recorded(result.to_dict()))
    there = push if result.push and result.push.commit else to
    if there is not None:
        say_commands(view, [["sample", "--model", str(there), "-n", "3"]])
