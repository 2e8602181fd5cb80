"""Options shared by several commands, each defined once; groups of them are in `option_groups`."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from sedd_cli.errors import did_you_mean, shortened


def file_name(name: str | Path) -> Path:
    """The path of a file to write; a name that ends in a slash is refused, which a path would not keep."""
    text = str(name)
    if text.endswith(("/", os.sep)):
        raise typer.BadParameter(f"{text!r} names a folder, a file is needed")
    return Path(text)


def _one_of(*known: str) -> Callable[[str], str]:
    def check(value: str) -> str:
        if value not in known:
            hint = did_you_mean(value, known)
            raise typer.BadParameter(f"{shortened(value)!r} is not one of {', '.join(known)}{hint}")
        return value

    return check


def _device(value: str) -> str:
    if not re.fullmatch(r"auto|cpu|mps|cuda(:[0-9]{1,4})?", value):
        raise typer.BadParameter(
            f"unknown device {shortened(value)!r}. Accepted: auto, cpu, cuda, cuda:N, mps"
            + did_you_mean(value, ("auto", "cpu", "cuda", "mps"))
        )
    return value


Json = Annotated[bool, typer.Option("--json", help="Print one JSON document, everything else on standard error.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print the result only.")]
Seed = Annotated[int, typer.Option(metavar="INT", help="The same seed gives the same output.")]


def _model(also: str = "", exact: str = "") -> Any:
    return typer.Option(
        "--model",
        "-m",
        metavar="MODEL",
        help=f"A run, a checkpoint, a folder in the published layout or a hub id{also}. "
        f"Default: the newest run under ./runs, else louaaron/sedd-small{exact}.",
    )


ModelOption = Annotated[str | None, _model()]
ModelOrCausal = Annotated[str | None, _model(", or a causal language model of transformers (gpt2, a folder)")]
ModelOfSweep = Annotated[str | None, _model(exact="; --exact: a built-in source")]
Tokenizer = Annotated[
    str | None, typer.Option(metavar="NAME", help="Name or file of the tokenizer, for a model that names none.")
]
MaskToken = Annotated[
    str | None,
    typer.Option(
        metavar="TOKEN", help="MASK by its id or token, for a model of another project whose files do not name it."
    ),
]
Device = Annotated[str, typer.Option(metavar="NAME", callback=_device, help="auto, cpu, cuda, cuda:1, …")]
#: The names of `models.precision`, whose import takes seconds.
PRECISIONS = ("auto", "bf16", "tf32", "fp32")
known_precision = _one_of(*PRECISIONS)
Precision = Annotated[
    str,
    typer.Option(
        metavar="NAME",
        callback=known_precision,
        help="fp32, tf32, bf16, or auto: bf16 where the device computes it natively (faster, rounded).",
    ),
]
Compile = Annotated[
    bool,
    typer.Option(
        "--compile", help="Compile the network's blocks first; on an H200 the trunk alone was up to 1.7 times as fast."
    ),
]
Count = Annotated[int, typer.Option("-n", metavar="INT", help="Number of samples.")]


def _out(more: str) -> Any:
    """`--out` of results that come one by one; `more`: what becomes of a file that exists."""
    said = f"Also write the results here as they come, as JSON lines. {more}"
    return typer.Option(metavar="FILE", parser=file_name, help=said)


Out = Annotated[Path | None, _out("Replaces the file.")]
OutOfInfill = Annotated[Path | None, _out("Replaces the file; with --input, continues it.")]
OutDocument = Annotated[
    Path | None, typer.Option(metavar="FILE", parser=file_name, help="Also write the JSON document here.")
]
Dataset = Annotated[
    list[str] | None,
    typer.Option(metavar="TEXT", help="A named corpus, a file, a folder or a hub id. Default: the run's own corpus."),
]
From = Annotated[
    list[str] | None,
    typer.Option(
        "--from", metavar="PATH", help="Local files of a named corpus: PATH, or NAME=PATH for one of several."
    ),
]
Split = Annotated[str | None, typer.Option(metavar="NAME", help="Default: test, or validation if there is no test.")]
Judge = Annotated[
    str | None,
    typer.Option(
        metavar="MODEL",
        help="Generative perplexity under this model: gpt2-large, another causal model, an autoregressive run.",
    ),
]
JudgeOfSweep = Annotated[
    str | None,
    typer.Option(
        "--judge", metavar="MODEL", help="A causal language model such as gpt2-large, or an autoregressive run."
    ),
]
JudgeModel = Annotated[
    str,
    typer.Option(
        "--judge", metavar="MODEL", help="A causal language model such as gpt2-large, or an autoregressive run."
    ),
]
SelfBleu = Annotated[
    bool | None,
    typer.Option("--self-bleu/--no-self-bleu", help="Self-BLEU beside the perplexity of the judged samples (default)."),
]
Reference = Annotated[
    str | None,
    typer.Option(
        metavar="TEXT",
        help="Corpus of real text and of controls without a network. Default: that of the model, else of the judge, "
        "where it is prepared.",
    ),
]

_WATCHING = "Watching"
Watch = Annotated[
    bool, typer.Option("--watch", help="Show the text while it is denoised, in a terminal.", rich_help_panel=_WATCHING)
]
Html = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        parser=file_name,
        help="Write a page that replays the denoising, name.html.",
        rich_help_panel=_WATCHING,
    ),
]
Svg = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        parser=file_name,
        help="Write an animated picture of the denoising, name.svg.",
        rich_help_panel=_WATCHING,
    ),
]
Gif = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        parser=file_name,
        help="The same picture where SVG is not shown, name.gif.",
        rich_help_panel=_WATCHING,
    ),
]
