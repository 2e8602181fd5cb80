"""An option that takes one value and is given several times is refused: all but the last would be dropped silently."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from sedd_cli.errors import RequestError

#: What takes several, where an option of this name takes one.
SEVERAL = {"model": "; sedd compare A B compares runs"}


def refuse_repeated(group: Any, words: list[str]) -> None:
    """RequestError if the words of a command line give an option twice that takes one value.

    Args:
        group: The command of all commands.
        words: The words behind `sedd`.
    """
    context = group.make_context("sedd", [], resilient_parsing=True)
    command, rest, name = group, words, "sedd"
    while hasattr(command, "commands"):
        if not rest or rest[0] not in command.commands:
            return
        command, name, rest = command.commands[rest[0]], f"{name} {rest[0]}", rest[1:]
    context.allow_interspersed_args = True  # that of the group is not: it would stop at the first argument
    given: list[Any] = []
    with suppress(Exception):  # the command itself reports what is wrong with its words
        given = command.make_parser(context).parse_args(list(rest))[2]
    for param in given:
        if _takes_one(param) and given.count(param) > 1:
            raise RequestError(
                f"{max(param.opts, key=len)} is given {given.count(param)} times, {name} takes one"
                f"{SEVERAL.get(param.name, '')}"
            )


def _takes_one(param: Any) -> bool:
    """Whether a parameter is an option with a single value, not a switch and not an argument."""
    return param.param_type_name == "option" and not (param.multiple or param.is_flag or param.count)
