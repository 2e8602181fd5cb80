"""Options shared by several commands, each defined once."""

from __future__ import annotations

import functools
import inspect
import types
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document, everything else on standard error.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print the result only.")]
Seed = Annotated[int, typer.Option(metavar="INT", help="The same seed gives the same output.")]


def _model(also: str = "") -> Any:
    return typer.Option(
        "--model",
        "-m",
        metavar="MODEL",
        help=f"A run, a checkpoint, a folder in the published layout or a hub id{also}. "
        "Default: the newest run under ./runs, else louaaron/sedd-small.",
    )


ModelOption = Annotated[str | None, _model()]
ModelOrCausal = Annotated[str | None, _model(", or a causal language model of transformers (gpt2, a folder)")]
Tokenizer = Annotated[
    str | None, typer.Option(metavar="NAME", help="Name or file of the tokenizer, for a model that names none.")
]
Device = Annotated[str, typer.Option(metavar="NAME", help="auto, cpu, cuda, cuda:1, …")]
Precision = Annotated[
    str,
    typer.Option(
        metavar="NAME", help="fp32, bf16, or auto: bf16 where the device computes it natively (faster, rounded)."
    ),
]
Count = Annotated[int, typer.Option("-n", metavar="INT", help="Number of samples.")]
Out = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="Also write the results here as they come, as JSON lines; replaces the file."),
]
OutDocument = Annotated[Path | None, typer.Option(metavar="FILE", help="Also write the JSON document here.")]
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
JudgeModel = Annotated[
    str,
    typer.Option(
        "--judge", metavar="MODEL", help="A causal language model such as gpt2-large, or an autoregressive run."
    ),
]
SelfBleu = Annotated[bool, typer.Option("--self-bleu", help="Also compute self-BLEU of the judged samples.")]

_SAMPLING, _CHANGING, _WATCHING = (
    "Sampling",
    "Options that change the distribution of the samples (reported with them)",
    "Watching",
)
Watch = Annotated[
    bool, typer.Option("--watch", help="Show the text while it is denoised, in a terminal.", rich_help_panel=_WATCHING)
]
Html = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="Write a page that replays the denoising.", rich_help_panel=_WATCHING),
]
Svg = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="Write an animated picture of the denoising (SVG).", rich_help_panel=_WATCHING),
]

#: The sampling options: name of the field of `Sampling` → annotation and default of the command's parameter.
SAMPLING: dict[str, tuple[Any, Any]] = {
    "steps": (
        Annotated[
            int | None,
            typer.Option(
                metavar="INT",
                help="Denoising steps; default: the recipe's, else 128. At most one more network evaluation.",
                rich_help_panel=_SAMPLING,
            ),
        ],
        None,
    ),
    "sampler": (
        Annotated[
            str | None,
            typer.Option(
                metavar="NAME",
                help="tweedie, euler, or first-hitting (one token at a time, normalized).",
                rich_help_panel=_SAMPLING,
            ),
        ],
        None,
    ),
    "thinning": (
        Annotated[
            bool,
            typer.Option(
                " /--no-thinning",
                help="Evaluate every position in every step.",
                show_default=False,
                rich_help_panel=_SAMPLING,
            ),
        ],
        True,
    ),
    "batch": (
        Annotated[
            int | None,
            typer.Option(
                metavar="INT",
                help="Sequences denoised together; default: as memory allows.",
                rich_help_panel=_SAMPLING,
            ),
        ],
        None,
    ),
    "normalized": (
        Annotated[
            bool,
            typer.Option(
                "--normalized",
                help="Set the absorbing model's normaliser to 1; steps without an event are then free.",
                rich_help_panel=_CHANGING,
            ),
        ],
        False,
    ),
    "temperature": (
        Annotated[
            float | None,
            typer.Option(
                metavar="FLOAT",
                help="Below 1 favours likely tokens, above 1 rare ones.",
                rich_help_panel=_CHANGING,
            ),
        ],
        None,
    ),
    "top_p": (
        Annotated[
            float | None,
            typer.Option(
                metavar="FLOAT",
                help="Keep the likeliest tokens of this total probability.",
                rich_help_panel=_CHANGING,
            ),
        ],
        None,
    ),
    "grid": (
        Annotated[
            str | None,
            typer.Option(
                metavar="NAME",
                help="Time grid: linear, cosine (short steps first), even (equally many tokens resolved in each step).",
                rich_help_panel=_CHANGING,
            ),
        ],
        None,
    ),
    "correctors": (
        Annotated[
            int | None,
            typer.Option(
                metavar="INT",
                help="Corrector steps after each step (Campbell et al. 2022).",
                rich_help_panel=_CHANGING,
            ),
        ],
        None,
    ),
    "remask": (
        Annotated[
            float | None,
            typer.Option(
                metavar="FLOAT",
                help="Probability that a step masks a resolved token again (ReMDM, capped), such as 0.02.",
                rich_help_panel=_CHANGING,
            ),
        ],
        None,
    ),
    "legacy": (
        Annotated[
            bool,
            typer.Option(
                "--legacy-float32-gumbel",
                help="Draw in float32 as the published code does, which loses rare tokens.",
                rich_help_panel=_CHANGING,
            ),
        ],
        False,
    ),
}


#: Options that say how a text is read: name of the field of `PrepareOptions` → annotation; each defaults to None.
READING: dict[str, Any] = {
    name: Annotated[str | None, typer.Option(metavar="NAME", help=text, rich_help_panel="Reading the text")]
    for name, text in {
        "field": "Key or column of the text; default: text.",
        "encoding": "Encoding of text files; default: utf-8.",
        "documents": "Separator of documents in a text file: auto, blank (lines), line, file.",
        "format": "What a file holds where its ending does not tell: text, jsonl, json, csv, tsv, parquet, archive.",
        "revision": "Branch, tag or commit of a hub dataset.",
        "config": "Configuration of a hub dataset.",
        "detokenizer": "wikitext, ptb, lm1b, lambada or none; default: the corpus's own.",
        "eos": "Token that separates documents, for a tokenizer that names none.",
    }.items()
}


def reading_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options of READING as one argument `reading`, which holds those that are given."""

    def make(values: dict[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in values.items() if value is not None}

    return _with_options(command, "reading", {name: (annotation, None) for name, annotation in READING.items()}, make)


def sampling_options(*names: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command the sampling options of these names, all without names, as one argument `sampling`.

    The command's parameter `sampling` is replaced by the options; the command receives a `Sampling` object.
    """

    def make(values: dict[str, Any]) -> Any:
        from sedd_cli.inference.sampling import Sampling

        return Sampling(**values)

    return lambda command: _with_options(
        command, "sampling", {name: SAMPLING[name] for name in names or SAMPLING}, make
    )


def _with_options(
    command: Callable[..., None], argument: str, options: dict[str, tuple[Any, Any]], make: Callable[..., Any]
) -> Callable[..., None]:
    """The command with its parameter `argument` replaced by options, of whose values `make` makes the argument."""
    own = [p for p in inspect.signature(command).parameters.values() if p.name != argument]
    # the names of some annotations are imported for type checkers alone
    unresolved = types.SimpleNamespace(__annotations__={p.name: p.annotation for p in own})
    hints = typing.get_type_hints(unresolved, command.__globals__, include_extras=True)
    keyword = inspect.Parameter.KEYWORD_ONLY
    parameters = [p.replace(kind=keyword, annotation=hints[p.name]) for p in own]
    for name, (annotation, default) in options.items():
        parameters.append(inspect.Parameter(name, keyword, default=default, annotation=annotation))

    @functools.wraps(command)
    def wrapped(**values: Any) -> None:
        made = make({name: values.pop(name) for name in options})
        return command(**{argument: made}, **values)

    wrapped.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    wrapped.__annotations__ = {p.name: p.annotation for p in parameters}
    return wrapped
