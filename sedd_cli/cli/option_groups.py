"""Groups of options that commands share, given to a command by a decorator."""

from __future__ import annotations

import functools
import inspect
import re
import types
import typing
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from sedd_cli.cli import options as o
from sedd_cli.cli.choose import ModelChoice, source_of
from sedd_cli.errors import RequestError

_SAMPLING = "Sampling"
_SAMPLER_FILES = Path(__file__).parents[1] / "core" / "samplers"
_REGISTERED = re.compile(r'^@SAMPLERS\.register$.*?^    name: ClassVar\[str\] = "(\w+)"$', re.MULTILINE | re.DOTALL)
_CHANGING = "Options that change the distribution of the samples (reported with them)"


def _option(
    kind: Any, panel: str, text: str, *flags: str, metavar: str | None = None, default: Any = None, **more: Any
) -> tuple[Any, Any]:
    """Annotation and default of an option in a panel of the help."""
    option = typer.Option(*flags, metavar=metavar, help=text, rich_help_panel=panel, **more)
    return Annotated[kind, option], default


def _value(kind: Any, panel: str, text: str) -> tuple[Any, Any]:
    return _option(kind | None, panel, text, metavar={int: "INT", float: "FLOAT", str: "NAME"}[kind])


def _samplers() -> str:
    """The samplers of the registry, read from their files: the registry itself imports torch, which takes seconds."""
    texts = (path.read_text(encoding="utf-8") for path in sorted(_SAMPLER_FILES.glob("*.py")))
    return ", ".join(sorted(name.replace("_", "-") for text in texts for name in _REGISTERED.findall(text)))


#: The sampling options: name of the field of `Sampling` → annotation and default of the command's parameter.
SAMPLING: dict[str, tuple[Any, Any]] = {
    "steps": _value(
        int, _SAMPLING, "Denoising steps; default: the recipe's, else 128. At most one more network evaluation."
    ),
    "sampler": _value(
        str,
        _SAMPLING,
        f"{_samplers()}. first-hitting: one token at a time, normalized. "
        "With options: '{name: confidence, order: entropy}'.",
    ),
    "thinning": _option(
        bool, _SAMPLING, "Evaluate every position in every step.", " /--no-thinning", default=True, show_default=False
    ),
    "batch": _value(int, _SAMPLING, "Sequences denoised together; default: as memory allows."),
    "normalized": _option(
        bool,
        _CHANGING,
        "Set the absorbing model's normaliser to 1; steps without an event are then free.",
        "--normalized",
        default=False,
    ),
    "temperature": _value(
        float, _CHANGING, "Below 1 favours likely tokens, above 1 rare ones; 0: the likeliest (confidence)."
    ),
    "top_p": _value(float, _CHANGING, "Keep the likeliest tokens of this total probability."),
    "grid": _value(
        str,
        _CHANGING,
        "Time grid: linear, cosine (short steps first), even (equally many tokens resolved in each step).",
    ),
    "correctors": _value(int, _CHANGING, "Corrector steps after each step (Campbell et al. 2022)."),
    "remask": _value(
        float, _CHANGING, "Probability that a step masks a resolved token again (ReMDM, capped), such as 0.02."
    ),
    "last_step": _option(
        str | None,
        _CHANGING,
        "How the noise left after the grid is removed: bayes, as in the likelihood bound, tweedie, as in the published "
        "code (the same on the absorbing graph), or greedy, as MDLM and Duo do: the likeliest token everywhere.",
        "--last-step",
        metavar="NAME",
    ),
    "order": _value(
        str, _CHANGING, "confidence: which tokens are kept first: probability (default), margin, entropy, random."
    ),
    "quota": _value(str, _CHANGING, "confidence: tokens a step keeps: even, as LLaDA (default), or linear, as Dream."),
    "block_length": _value(
        int,
        _CHANGING,
        "confidence, threshold, entropy-bounded: fill blocks of so many tokens one after another; default: all in one.",
    ),
    "guidance": _value(
        float, _CHANGING, "confidence: weight of classifier-free guidance by the given text, such as 0.5."
    ),
    "all_rows": _option(
        bool, _CHANGING, "confidence: MASK competes with tokens, as in the code of LLaDA.", "--all-rows", default=False
    ),
    "kappa": _value(
        float, _CHANGING, "psi: weight of the Tweedie step; the rest draws the token anew. Default: 0.98, 1 is tweedie."
    ),
    "beta": _value(float, _CHANGING, "flow-matching: weight of the corrector in a step; default: 0.5, 0 is euler."),
    "threshold": _value(float, _CHANGING, "threshold: keep all tokens of at least this probability; default: 0.9."),
    "entropy_bound": _value(
        float,
        _CHANGING,
        "entropy-bounded: sum of entropies but the largest that a step may reach, in nats; default: 0.1.",
    ),
    "sweeps": _value(
        int, _CHANGING, "gibbs: sweeps over the free tokens after the steps; one evaluation a token. Default: 4."
    ),
    "legacy": _option(
        bool,
        _CHANGING,
        "Draw in float32 as the published code does, which loses rare tokens.",
        "--legacy-float32-gumbel",
        default=False,
    ),
}

#: The options by which a command chooses its model and prints, with their defaults.
MODEL: dict[str, tuple[Any, Any]] = {
    "model": (o.ModelOption, None),
    "tokenizer": (o.Tokenizer, None),
    "mask_token": (o.MaskToken, None),
    "device": (o.Device, "auto"),
    "precision": (o.Precision, "fp32"),
    "compile": (o.Compile, False),
    "json": (o.Json, False),
    "quiet": (o.Quiet, False),
}

#: The options that show a denoising.
WATCHING: dict[str, tuple[Any, Any]] = {
    "watch": (o.Watch, False),
    "html": (o.Html, None),
    "svg": (o.Svg, None),
    "gif": (o.Gif, None),
}

#: Options that say how a text is read: name of the field of `PrepareOptions` → annotation and default.
READING: dict[str, tuple[Any, Any]] = {
    name: _value(str, "Reading the text", text)
    for name, text in {
        "field": "Key or column of the text; default: text.",
        "encoding": "Encoding of text files; default: utf-8.",
        "documents": "Separator of documents in a text file: auto, blank (lines), line, file.",
        "format": "Format of a file that its ending does not name: text, jsonl, json, csv, tsv, parquet, archive.",
        "revision": "Branch, tag or commit of a hub dataset.",
        "config": "Configuration of a hub dataset.",
        "detokenizer": "wikitext, ptb, lm1b, lambada or none; default: the corpus's own.",
        "eos": "Token that separates documents, for a tokenizer that names none.",
    }.items()
}

Command = Callable[..., None]


@dataclass(frozen=True)
class ModelOptions:
    """The values of the options MODEL; a run that is named as `sedd runs` lists it is replaced by its folder."""

    model: str | None
    tokenizer: str | None
    mask_token: str | None
    device: str
    precision: str
    compile: bool
    json: bool
    quiet: bool

    def __post_init__(self) -> None:
        if self.model and not Path(self.model).exists() and Path("runs", self.model).is_dir():
            object.__setattr__(self, "model", source_of(self.model))

    @property
    def choice(self) -> ModelChoice:
        """What `choose_model` takes."""
        return ModelChoice(self.model, self.device, self.precision, self.tokenizer, self.mask_token, self.compile)


@dataclass(frozen=True)
class Watching:
    """The values of the options WATCHING."""

    watch: bool = False
    html: Path | None = None
    svg: Path | None = None
    gif: Path | None = None

    @property
    def files(self) -> dict[str, Path | None]:
        """Option → the file to write."""
        return {"--html": self.html, "--svg": self.svg, "--gif": self.gif}

    @property
    def wanted(self) -> bool:
        """Whether the frames of a denoising are needed."""
        return self.watch or any(self.files.values())

    def check(self, quiet: bool) -> None:
        """RequestError for a file with the ending of another format, and where nothing can be watched."""
        from sedd_cli.system.files import is_stream

        for option, path in self.files.items():
            if path is None or is_stream(path):
                continue
            ending = path.suffix.lower()
            known = (".html", ".htm") if option == "--html" else (f".{option.removeprefix('--')}",)
            if ending not in known:
                meant = {".html": "--html", ".htm": "--html", ".svg": "--svg", ".gif": "--gif"}.get(ending)
                more = f"; {meant} writes {ending}" if meant else ""
                raise RequestError(f"{option} writes a file that ends in {known[0]}, found {path}{more}")
        if self.watch and quiet:
            raise RequestError("--watch shows the texts while they are denoised, --quiet the results alone")


def refuse_unused(context: typer.Context, unused: Collection[str], where: str) -> None:
    """RequestError if the command line names one of the options that have no effect with `where`."""
    for option in context.command.params:
        given = context.get_parameter_source(option.name or "")
        if option.name in unused and given is not None and given.name == "COMMANDLINE":
            raise RequestError(f"{_typed(option, context.params.get(option.name or ''))} has no effect with {where}")


def _typed(option: Any, value: Any) -> str:
    """How an argument or an option with this value is written: CORPUS, --steps, --no-resume/--fresh."""
    if option.param_type_name == "argument":
        return option.metavar
    return "/".join(option.secondary_opts) if value is False and option.secondary_opts else option.opts[0]


def model_options(**changed: tuple[Any, Any]) -> Callable[[Command], Command]:
    """Give a command the options MODEL, some of them changed, as one argument `using`, a `ModelOptions`."""
    return lambda command: _with_options(command, "using", MODEL | changed, ModelOptions)


def sampling_options(*names: str) -> Callable[[Command], Command]:
    """Give a command the sampling options of these names, all without names, as one argument `sampling`."""

    def made(**values: Any) -> Any:
        from sedd_cli.inference.sampling import Sampling

        return Sampling(**values)

    options = {name: SAMPLING[name] for name in names or SAMPLING}
    return lambda command: _with_options(command, "sampling", options, made)


def watching_options(command: Command) -> Command:
    """Give a command the options WATCHING as one argument `watching`, a `Watching`."""
    return _with_options(command, "watching", WATCHING, Watching)


def reading_options(command: Command) -> Command:
    """Give a command the options READING as one argument `reading`, which holds those that are given."""

    def made(**values: Any) -> dict[str, Any]:
        return {name: value for name, value in values.items() if value is not None}

    return _with_options(command, "reading", READING, made)


def _with_options(
    command: Command, group: str, options: dict[str, tuple[Any, Any]], make: Callable[..., Any]
) -> Command:
    """The command with the parameter `group` replaced by options at the end; it gets make(**values of the options)."""
    own = [p for p in inspect.signature(command).parameters.values() if p.name != group]
    # the classes of other groups are not resolved: importing `Sampling` imports torch
    known = {p.name: p.annotation for p in own if p.name not in ("using", "sampling", "reading", "watching")}
    module = inspect.unwrap(command).__globals__
    hints = typing.get_type_hints(types.SimpleNamespace(__annotations__=known), module, include_extras=True)
    keyword = inspect.Parameter.KEYWORD_ONLY
    parameters = [p.replace(kind=keyword, annotation=hints.get(p.name, p.annotation)) for p in own]
    for name, (annotation, default) in options.items():
        parameters.append(inspect.Parameter(name, keyword, default=default, annotation=annotation))

    @functools.wraps(command)
    def wrapped(**values: Any) -> None:
        chosen = {name: values.pop(name) for name in options}
        return command(**{group: make(**chosen)}, **values)

    wrapped.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    wrapped.__annotations__ = {p.name: p.annotation for p in parameters}
    return wrapped
