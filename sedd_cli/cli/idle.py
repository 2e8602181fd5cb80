"""Options that would be ignored are refused."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import typer

from sedd_cli.errors import RequestError


def refuse_idle(
    context: typer.Context, idle: Collection[str], way: str, hints: Mapping[str, str] | None = None
) -> None:
    """RequestError for an option among `idle` that was given; `way` is how the command is used.

    hints: what some of them go with.
    """
    for option in context.command.params:
        given = context.get_parameter_source(option.name)
        if option.name in idle and given is not None and given.name == "COMMANDLINE":
            hint = f": it goes with {hints[option.name]}" if hints and option.name in hints else ""
            raise RequestError(f"{option.opts[0]} means nothing with {way}{hint}")
