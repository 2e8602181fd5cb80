"""Values of a recipe that were typed as options: `sedd train quickstart --lr 1e-3` means train.lr=1e-3."""

from __future__ import annotations

from sedd_cli.errors import RequestError, shortened
from sedd_cli.system import shell

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
            return shell.quoted(value)
        if word == option:
            return "VALUE" if behind.startswith("--") or "=" in behind else shell.quoted(behind)
    return "VALUE"
