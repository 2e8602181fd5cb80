"""An option that a command does not have: a key of the recipe, its name there, or which other command has it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from sedd_cli.errors import ITEMS, RequestError, listed, shell_word, shortened

#: Commands that take `key=value`.
COMMANDS = ("train",)


def as_override(error: BaseException, words: list[str]) -> BaseException:
    """The error; where it is an unknown option of a command that takes overrides, a RequestError with the override."""
    option = getattr(error, "option_name", None)
    if not option or not words or words[0] not in COMMANDS:
        return error
    from sedd_cli.recipe.keys import is_spelled, meant

    close = set(getattr(error, "possibilities", None) or ()) - {"--help"}
    key = meant(option)
    if key is None or (close and not is_spelled(option)):
        return error
    said = f"{shortened(option)} is no option but a value of the recipe"
    return RequestError(f"{said}: write {key}={_value(option, words)}")


def _value(option: str, words: list[str]) -> str:
    """What stands behind an option, quoted for a shell; VALUE where there is nothing."""
    for word, behind in zip(words, [*words[1:], "--"], strict=True):
        name, equals, value = word.partition("=")
        if name == option and equals:
            return shell_word(value)
        if word == option:
            return "VALUE" if behind.startswith("--") or "=" in behind else shell_word(behind)
    return "VALUE"


#: (command, option) → what does it there.
INSTEAD = {
    ("compare", "--png"): "--out FILE.png writes the curves",
    ("compare", "--plot"): "--out FILE.png writes the curves",
    ("status", "--out"): "--plot writes RUN/curve.png, --json prints the values",
    ("status", "--png"): "--plot writes RUN/curve.png",
    ("status", "--html"): "--plot writes RUN/curve.png",
}


def in_other_words(error: BaseException, group: Any) -> BaseException:
    """The error; where it is an option of other commands, a RequestError that names them.

    Args:
        error: What ended a command.
        group: The command of all commands.
    """
    option, context = getattr(error, "option_name", None), getattr(error, "ctx", None)
    if not option or context is None or not hasattr(error, "possibilities"):
        return error
    here = context.command_path.partition(" ")[2]
    if instead := INSTEAD.get((here, option)):
        return RequestError(f"sedd {here} has no {option}: {instead}")
    owners = [name for name, options in _options(group) if option in options]
    if not owners:
        return error
    few = owners[0] if len(owners) == 1 else f"{', '.join(owners[:-1])} and {owners[-1]}"
    named = few if len(owners) <= ITEMS else listed(owners)
    return RequestError(f"sedd {here} has no {option}: it is an option of sedd {named}")


def _options(group: Any, path: str = "") -> Iterator[tuple[str, set[str]]]:
    """(name, options) of every command."""
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from _options(command, f"{path}{name} ")
        else:
            options = (option for param in command.params for option in (*param.opts, *param.secondary_opts))
            yield f"{path}{name}", {option for option in options if option.startswith("-")}
