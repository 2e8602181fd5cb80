"""Spellings of the previous version. They work for one more version; this module is then deleted."""

from __future__ import annotations

from collections.abc import Callable

from sedd_cli.errors import RequestError

#: Options that were renamed: (command, old option) → new option.
OPTIONS = {
    ("eval", "--yardsticks"): "--baselines",
    ("eval", "--no-yardsticks"): "--no-baselines",
    ("train", "--fit"): "--autotune",
}
#: Options that are commands now: (command, options) → new command, and the words that carry the option's value.
COMMANDS: dict[tuple[str, tuple[str, ...]], tuple[str, Callable[[str], list[str]]]] = {
    ("eval", ("--samples",)): ("judge", lambda value: [value]),
    ("eval", ("--sweep",)): ("sweep", lambda value: ["--steps", value.removeprefix("steps=")]),
    ("eval", ("--cloze",)): ("cloze", lambda value: ["-n", value]),
    ("train", ("--status",)): ("status", lambda value: [value]),
    ("doctor", ("--model", "-m")): ("inspect", lambda value: [value]),
}


def current_spelling(words: list[str], notify: Callable[[str], None]) -> list[str]:
    """The command line in today's spelling; `notify` receives one line for each old spelling.

    Raises RequestError where two options name two commands, or an option lacks its value.
    """
    if not words:
        return words
    command, *rest = words
    found = [(old, new) for old, new in COMMANDS.items() if old[0] == command and _position(rest, old[1]) is not None]
    if len(found) > 1:
        raise RequestError("--samples, --sweep and --cloze are three commands now: sedd judge, sedd sweep, sedd cloze")
    for (_, options), (new, carry) in found:
        if new == "judge" and _position(rest, ("--model", "-m", "--dataset", "--protocol")) is not None:
            break  # what `eval` does today, and an option that it does not have
        value, rest = _taken(rest, options)
        if new in ("sweep", "cloze"):  # `auto` meant fp32 there
            rest = _without(rest, "--precision", "auto")
        notify(f"`sedd {command} {options[0]}` is now `sedd {new}`; the old spelling goes with the next version")
        return [new, *carry(value), *rest]
    for i, word in enumerate(rest):
        if new_name := OPTIONS.get((command, word)):
            notify(f"`sedd {command} {word}` is now `{new_name}`; the old spelling goes with the next version")
            rest[i] = new_name
    return [command, *rest]


def _position(words: list[str], options: tuple[str, ...]) -> int | None:
    """Where one of the options is given, also as --option=value or -mvalue."""
    for i, word in enumerate(words):
        if word == "--":
            return None
        if any(word == o or word.startswith(f"{o}=" if o.startswith("--") else o) for o in options):
            return i
    return None


def _taken(words: list[str], options: tuple[str, ...]) -> tuple[str, list[str]]:
    """The value of the option, and the other words."""
    at = _position(words, options)
    assert at is not None
    word = words[at]
    if word in options:
        if at + 1 == len(words):
            raise RequestError(f"{word} needs a value")
        return words[at + 1], words[:at] + words[at + 2 :]
    value = word.partition("=")[2] if word.startswith("--") else word[2:]
    return value, words[:at] + words[at + 1 :]


def _without(words: list[str], option: str, value: str) -> list[str]:
    """The words without one option of this value."""
    for i, word in enumerate(words):
        if word == f"{option}={value}":
            return words[:i] + words[i + 1 :]
        if words[i : i + 2] == [option, value]:
            return words[:i] + words[i + 2 :]
    return words
