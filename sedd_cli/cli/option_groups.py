"""Groups of options that commands share, given to a command by a decorator."""

from __future__ import annotations

import functools
import inspect
import types
import typing
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

import typer

from sedd_cli.cli import options as o

_SAMPLING = "Sampling"
_CHANGING = "Options that change the distribution of the samples (reported with them)"

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


#: The options by which a command chooses its model and prints, with their defaults.
MODEL: dict[str, tuple[Any, Any]] = {
    "model": (o.ModelOption, None),
    "tokenizer": (o.Tokenizer, None),
    "device": (o.Device, "auto"),
    "precision": (o.Precision, "fp32"),
    "json": (o.Json, False),
    "quiet": (o.Quiet, False),
}

Command = Callable[..., None]


@dataclass(frozen=True)
class ModelOptions:
    """The values of the options MODEL."""

    model: str | None
    tokenizer: str | None
    device: str
    precision: str
    json: bool
    quiet: bool

    @property
    def choice(self) -> tuple[str | None, str, str, str | None]:
        """What `choose_model` takes: model, device, precision, tokenizer."""
        return self.model, self.device, self.precision, self.tokenizer


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


def _with_options(
    command: Command, group: str, options: dict[str, tuple[Any, Any]], make: Callable[..., Any]
) -> Command:
    """The command with the parameter `group` replaced by options at the end; it gets make(**values of the options)."""
    own = [p for p in inspect.signature(command).parameters.values() if p.name != group]
    # the classes of other groups are not resolved: importing `Sampling` imports torch
    known = {p.name: p.annotation for p in own if p.name not in ("using", "sampling")}
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
