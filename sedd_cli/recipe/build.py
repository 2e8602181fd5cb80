"""Build frozen dataclasses from plain data, with strict keys and types and helpful errors."""

from __future__ import annotations

import dataclasses
import math
import re
import types
import typing
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeVar, cast

from sedd_cli.errors import RequestError, displayed, listed, nearest_name, shortened
from sedd_cli.system.documents import parse_yaml

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

T = TypeVar("T")
#: Whole numbers beyond this are refused: seeds have 64 bits, and nothing is larger.
LARGEST = 2**64 - 1
#: Words for a key of a recipe that are not like it.
SYNONYMS = {"schedule": "noise", "loss": "objective", "process": "graph", "dataset": "data"}


def build(cls: type[T], data: Any, path: str, **given: Any) -> T:
    """Build an instance of the dataclass `cls`.

    Args:
        cls: The dataclass.
        data: A mapping from field names to values.
        path: Where the mapping is in the recipe, for messages.
        given: Values of fields that the data must not name.

    Raises:
        RequestError: Names the key, the value found and the accepted values.
    """
    if not isinstance(data, Mapping):
        raise RequestError(f"{path or 'recipe'}: expected keys and values, found {displayed(data)}")
    declared = dataclasses.fields(cast("type[DataclassInstance]", cls))
    fields = {f.name: f for f in declared if f.init and f.name not in given}
    for key in data:
        if key not in fields:
            raise RequestError(f"{_join(path, shortened(str(key)))}: unknown key{nearest(str(key), fields)}")
    hints = typing.get_type_hints(cls)
    values = {key: convert(hints[key], value, _join(path, key)) for key, value in data.items()}
    for name, field in fields.items():
        required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        if required and name not in values:
            raise RequestError(f"{_join(path, name)}: missing, it has no default")
    try:
        return cls(**values, **given)
    except (ValueError, OverflowError) as error:
        raise RequestError(f"{path}: {error}" if path else str(error)) from None


class Typed(str):
    """A value as it was typed behind `key=`. It is read by the type of the field, not by the rules of YAML."""

    def read(self, hint: Any, path: str) -> Any:
        """The value for a field of this type; text for the type's own check where it is none."""
        if hint is str:
            return str(self)
        word = self.strip().lower()
        if hint is bool and word in _WORDS:
            return _WORDS[word]
        if hint is int and re.fullmatch(r"[-+]?[0-9]+(_[0-9]+)*", word) and len(word) < 100:
            return int(word)
        if hint in (int, float, bool):
            return str(self)
        if self.lstrip().startswith(("{", "[")):  # several values
            try:
                return parse_yaml(self, path, plain=Typed)
            except RequestError as error:
                if self.rstrip().endswith(("}", "]")):
                    raise
                key = path.rpartition(".")[2]  # a shell cuts at spaces
                raise RequestError(f'{error}; put the whole override in quotes: "{key}={{name: ..., ...}}"') from None
        return [Typed(part) for part in self.split(",")] if typing.get_origin(hint) is tuple else str(self)


_WORDS = {"true": True, "false": False, "yes": True, "no": False, "on": True, "off": False}


def convert(hint: Any, value: Any, path: str) -> Any:
    """Check `value` against a type annotation. Only 1 → 1.0 and "3e-4" → 0.0003 are converted, and what was typed."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if isinstance(value, Typed):
        if type(None) in args and value.strip().lower() in ("null", "~" if str not in args else "null"):
            return None
        if origin not in (types.UnionType, typing.Union):
            value = value.read(hint, path)
    if origin in (types.UnionType, typing.Union):
        if value is None and type(None) in args:
            return None
        (hint,) = (a for a in args if a is not type(None))
        return convert(hint, value, path)
    if origin is tuple and args[-1] is ...:
        if not isinstance(value, list | tuple):
            raise RequestError(f"{path}: expected a list, found {displayed(value)}")
        return tuple(convert(args[0], v, f"{path}[{i}]") for i, v in enumerate(value))
    if origin is Mapping:
        if not isinstance(value, Mapping):
            raise RequestError(f"{path}: expected keys and values, found {displayed(value)}")
        return {convert(args[0], k, path): convert(args[1], v, _join(path, k)) for k, v in value.items()}
    if origin is tuple:
        if not isinstance(value, list | tuple) or len(value) != len(args):
            raise RequestError(f"{path}: expected a list of {len(args)} values, found {displayed(value)}")
        return tuple(convert(a, v, f"{path}[{i}]") for i, (a, v) in enumerate(zip(args, value, strict=True)))
    if hasattr(hint, "from_data"):
        return hint.from_data(value, path)
    if dataclasses.is_dataclass(hint):
        return build(cast("type[Any]", hint), value, path)
    if hint is float and isinstance(value, int | float | str) and not isinstance(value, bool):
        with suppress(ValueError, OverflowError):
            if math.isfinite(number := float(value)):
                return number
    elif type(value) is hint:
        if hint is int and abs(int(value)) > LARGEST:
            raise RequestError(f"{path}: whole numbers lie between -2^64 and 2^64, found {displayed(value)}")
        return value
    raise RequestError(f"{path}: expected {_TYPE_NAMES.get(hint, hint.__name__)}, found {displayed(value)}")


def nearest(name: str, known: Iterable[str]) -> str:
    """The end of a message about an unknown name: the most similar known name, and all of them."""
    known = sorted(known)
    close = SYNONYMS[name] if SYNONYMS.get(name) in known else nearest_name(name, known)
    meant = f", did you mean {close!r}?" if close else "."
    return f"{meant} Accepted: {listed(known, 100) or 'none'}"


def to_data(value: Any) -> Any:
    """Convert a dataclass to mappings, lists and scalars: the inverse of `build`."""
    if hasattr(value, "to_data"):
        return value.to_data()
    if dataclasses.is_dataclass(value):
        return {f.name: to_data(getattr(value, f.name)) for f in dataclasses.fields(value)}
    return [to_data(v) for v in value] if isinstance(value, tuple) else value


_TYPE_NAMES = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}


def _join(path: str, key: Any) -> str:
    return f"{path}.{key}" if path else str(key)
