"""`--import`: parts of the user's own, for every command."""

from __future__ import annotations

import functools
import inspect
import typing
from collections.abc import Callable
from typing import Annotated, Any

import typer

from sedd_cli.system.software import offered

HELP = "Import graphs, schedules, objectives and samplers of your own: FILE.py or a module; repeatable."


def _import(sources: list[str] | None) -> list[str] | None:
    """Import the parts, before other options are read, some of which name them."""
    if sources:
        from sedd_cli.recipe.outside import import_parts

        for source in sources:
            import_parts(source)
    return sources


Import = Annotated[
    list[str] | None,
    typer.Option("--import", metavar="FILE", help=HELP, is_eager=True, callback=_import, rich_help_panel="Extending"),
]


def importing(command: Callable[..., Any]) -> Callable[..., Any]:
    """The command with the option `--import`."""
    hints = typing.get_type_hints(command, include_extras=True)
    keyword = inspect.Parameter.KEYWORD_ONLY
    own = [
        p.replace(kind=keyword, annotation=hints.get(p.name, p.annotation))
        for p in inspect.signature(command).parameters.values()
    ]

    @functools.wraps(command)
    def wrapped(**values: Any) -> Any:
        values.pop("imports")
        return command(**values)

    parameters = [*own, inspect.Parameter("imports", keyword, default=None, annotation=Import)]
    wrapped.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    wrapped.__annotations__ = {p.name: p.annotation for p in parameters}
    return wrapped


def import_offered() -> None:
    """Import the parts that installed packages offer. Without such a package this is quick."""
    if offered():
        from sedd_cli.recipe.outside import import_installed

        import_installed()


def name_parts(params: list[Any]) -> None:
    """Name the parts from outside in the help of `--import` and `--sampler`."""
    from sedd_cli.recipe.outside import outside_parts

    found = list(outside_parts())
    samplers = ", ".join(name.replace("_", "-") for key, name, _ in found if key == "sampler")
    for param in params:
        if param.name == "imports" and found:
            param.help = f"{HELP} Registered: {', '.join(f'{key} {name} ({of.source})' for key, name, of in found)}."
        elif param.name == "sampler" and samplers and samplers not in param.help:
            param.help = f"{samplers}, {param.help}"
