"""Options that several commands share, each said once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

Json = Annotated[bool, typer.Option("--json", help="One JSON document on standard output, all else on standard error.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Say only what was asked for.")]
Seed = Annotated[int, typer.Option(help="Repeats the output exactly.")]


def _model(also: str = "") -> Any:
    return typer.Option(
        "--model",
        "-m",
        help=f"A run, a checkpoint, a folder in the published layout or a hub id{also}. "
        "Without it: the newest run under ./runs, else louaaron/sedd-small.",
    )


ModelOption = Annotated[str | None, _model()]
ModelOrCausal = Annotated[str | None, _model("; or a causal language model of transformers (gpt2, a folder)")]
Tokenizer = Annotated[
    str | None,
    typer.Option(help="Name or file of the tokenizer, for a model that names none."),
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 …")]
Precision = Annotated[
    str,
    typer.Option(
        help="fp32, bf16, or auto: bf16 where the device computes it natively, which is faster and rounds otherwise."
    ),
]
Count = Annotated[int, typer.Option("-n", help="How many.")]
_SAMPLING, _LEVERS, _SEEING = (
    "How to sample",
    "Levers: each changes the law of the samples, and is named with them",
    "Seeing",
)
Steps = Annotated[
    int | None,
    typer.Option(
        help="Denoising steps, the recipe's by default, else 128; network evaluations are at most one more.",
        rich_help_panel=_SAMPLING,
    ),
]
SamplerName = Annotated[
    str | None,
    typer.Option(
        "--sampler", help="tweedie, euler, or first-hitting: one token a time, normalized.", rich_help_panel=_SAMPLING
    ),
]
NoThinning = Annotated[
    bool,
    typer.Option(
        "--no-thinning",
        help="Look at every position in every step, near normalised scores or not.",
        rich_help_panel=_SAMPLING,
    ),
]
Batch = Annotated[
    int | None,
    typer.Option(help="Sequences denoised together; default: as memory allows.", rich_help_panel=_SAMPLING),
]
Normalized = Annotated[
    bool,
    typer.Option(
        "--normalized",
        help="Set the absorbing model's normaliser to 1: idle steps cost nothing.",
        rich_help_panel=_LEVERS,
    ),
]
Temperature = Annotated[
    float | None, typer.Option(help="Below 1 the likely tokens gain, above 1 the rare ones.", rich_help_panel=_LEVERS)
]
TopP = Annotated[
    float | None, typer.Option(help="Only the likeliest tokens that hold this share.", rich_help_panel=_LEVERS)
]
Grid = Annotated[
    str | None,
    typer.Option(
        help="Where steps lie: linear, cosine (short ones first), even (equally many tokens fall in each).",
        rich_help_panel=_LEVERS,
    ),
]
Correctors = Annotated[
    int | None, typer.Option(help="Corrector steps after each step (Campbell et al.).", rich_help_panel=_LEVERS)
]
Remask = Annotated[
    float | None,
    typer.Option(help="Chance that a token is taken back in a step (ReMDM, capped): 0.02.", rich_help_panel=_LEVERS),
]
Legacy = Annotated[
    bool,
    typer.Option(
        "--legacy-float32-gumbel",
        help="Draw as the published code does, which loses rare tokens.",
        rich_help_panel=_LEVERS,
    ),
]
Watch = Annotated[
    bool, typer.Option("--watch", help="Show the text as it resolves, in a terminal.", rich_help_panel=_SEEING)
]
Html = Annotated[
    Path | None, typer.Option(help="Write a page here that replays the denoising.", rich_help_panel=_SEEING)
]
Svg = Annotated[
    Path | None,
    typer.Option(help="Write an animated picture of the denoising here (SVG).", rich_help_panel=_SEEING),
]
Out = Annotated[
    Path | None,
    typer.Option(
        help="Also write the results here as they come, one JSON object a line, in the place of what is there."
    ),
]
Judge = Annotated[
    str | None,
    typer.Option(help="Generative perplexity under gpt2-large, another causal model, or a run of ours that is one."),
]
SelfBleu = Annotated[bool, typer.Option("--self-bleu", help="With --judge: also self-BLEU.")]
