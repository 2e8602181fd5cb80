"""`sedd sample`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sedd_cli.cli import options as o
from sedd_cli.cli.render import run_generation

Count = Annotated[int, typer.Option("-n", help="How many.")]
Length = Annotated[int | None, typer.Option(help="Tokens, prompts included; default: the trained length.")]
Steps = Annotated[int | None, typer.Option(help="Denoising steps; network evaluations are at most one more.")]
SamplerName = Annotated[
    str | None,
    typer.Option("--sampler", help="tweedie, euler, or first_hitting: one token a time, normalized, no steps."),
]
Normalized = Annotated[
    bool, typer.Option("--normalized", help="Set the absorbing model's normaliser to 1: idle steps cost nothing.")
]
NoThinning = Annotated[
    bool, typer.Option("--no-thinning", help="Look at every position in every step, near normalised scores or not.")
]
Out = Annotated[Path | None, typer.Option(help="Also write the samples here, one JSON object a line.")]


def sample(
    n: Count = 1,
    length: Length = None,
    steps: Steps = None,
    sampler: SamplerName = None,
    normalized: Normalized = False,
    no_thinning: NoThinning = False,
    seed: o.Seed = 0,
    out: Out = None,
    judge: o.Judge = None,
    self_bleu: o.SelfBleu = False,
    model: o.ModelOption = None,
    tokenizer: o.Tokenizer = None,
    device: o.Device = "auto",
    precision: o.Precision = "fp32",
    json: o.Json = False,
    quiet: o.Quiet = False,
) -> None:
    """Draw samples from a model.

    In fp32, sample number k of a seed is the same text whatever -n is; in bf16 rounding may tell.

    Example: sedd sample --model runs/quickstart -n 3 --steps 64 --seed 1
    """
    request = {"n": n, "length": length, "steps": steps, "sampler": sampler}
    request |= {"normalized": normalized, "thinning": not no_thinning, "seed": seed}
    run_generation(request, out, model, tokenizer, device, precision, json, quiet, judge, self_bleu)
