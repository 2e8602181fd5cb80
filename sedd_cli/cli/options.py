"""Options that several commands share, each said once."""

from __future__ import annotations

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
Judge = Annotated[
    str | None,
    typer.Option(help="Generative perplexity under this causal language model: gpt2-large, or a folder."),
]
SelfBleu = Annotated[bool, typer.Option("--self-bleu", help="With --judge: also self-BLEU.")]
