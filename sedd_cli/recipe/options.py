"""Options of the functions for Python: their names, those of the command where they differ, and their types."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from sedd_cli.errors import RequestError, displayed, listed, nearest_name, shortened
from sedd_cli.recipe.build import convert, nearest
from sedd_cli.recipe.keys import is_spelled, meant

#: What a command calls an option → its name in Python: of options that may be repeated, and of long flags.
SPELLED = {"protocol": "protocols", "prompt": "prompts", "legacy_float32_gumbel": "legacy"}


#: Options for which other words are used, and those that only some of the functions have, with these.
SYNONYMS = {"quiet": "progress", "verbose": "progress"}
ELSEWHERE = {
    "progress": "prepare, train and evaluate",
    "run_dir": "train",
    **dict.fromkeys(("device", "precision", "tokenizer", "mask_token"), "load_model and evaluate"),
}


def hints_of(cls: type, *left_out: str) -> dict[str, Any]:
    """The fields of a dataclass with their types, but for some."""
    hints = typing.get_type_hints(cls)
    names = (f.name for f in dataclasses.fields(cls))
    return {name: hints[name] for name in names if name not in left_out}


def read_options(
    of: str,
    given: Mapping[str, Any],
    known: Mapping[str, Any],
    others: Iterable[str] = (),
    hint: Callable[[str, Any], str | None] = lambda name, value: None,
) -> dict[str, Any]:
    """The options given to a function, checked, by their names in Python.

    A number of numpy is one of Python; one value stands for a list of it, and text for a path.

    Args:
        of: The function.
        given: Name → value, as given; a command's name is accepted where it means the same.
        known: Name → type, as `convert` takes it.
        others: Further parameters of the function, for the message about an unknown name.
        hint: What to say of an unknown name with its value.

    Raises:
        RequestError: A name is unknown, or a value has another type.
    """
    found: dict[str, Any] = {}
    for spelled, value in given.items():
        name = SPELLED.get(spelled, spelled) if spelled not in known else spelled
        if name not in known:
            said = hint(spelled, value) or _negated(spelled, value, known)
            end = f"; {said}" if said else _elsewhere(spelled, [*others, *known])
            raise RequestError(f"{of} has no option {shortened(spelled)!r}{end}")
        if name in found:
            raise RequestError(f"{of}: {next(k for k, v in SPELLED.items() if v == name)} and {name} are one option")
        found[name] = _converted(known[name], value, name)
    return found


def override_hint(names: Iterable[str]) -> Callable[[str, Any], str | None]:
    """For `read_options`: what to say of a value of a recipe that is given as an option beside these names."""
    names = list(names)

    def hint(name: str, value: Any) -> str | None:
        key = meant(name)
        if key is None or (nearest_name(name, names) and not is_spelled(name)):
            return None
        return f'it is a value of the recipe: give "{key}={shortened(str(value))}" behind the recipe'

    return hint


def _negated(name: str, value: Any, known: Mapping[str, Any]) -> str | None:
    """What to say of a command's --no-NAME."""
    own = name.removeprefix("no_")
    return f"write {own}={not value}" if own != name and known.get(own) is bool else None


def _elsewhere(name: str, names: list[str]) -> str:
    """The end of a message about an unknown name: which functions have it, or the name that is probably meant."""
    own = SYNONYMS.get(name, name)
    if own in names or own not in ELSEWHERE:
        return nearest(own if own in names else name, names)
    which = "which" if own == name else "for which"
    end = "" if own == name else f" {own!r}"
    return f", {which} {ELSEWHERE[own]} have{end}. Accepted: {listed(sorted(names), 100)}"


def _converted(hint: Any, value: Any, name: str) -> Any:
    """The value as the type; RequestError where it is none."""
    kinds = typing.get_args(hint) or (hint,)
    if Path in kinds and isinstance(value, str | Path):
        return Path(value)
    if getattr(value, "shape", None) == () and hasattr(value, "item"):
        value = value.item()
    if typing.get_origin(hint) is tuple and isinstance(value, str):
        value = (value,)
    if float in kinds and isinstance(value, str):
        raise RequestError(f"{name}: expected a number, found {displayed(value)}")
    return convert(hint, value, name)
