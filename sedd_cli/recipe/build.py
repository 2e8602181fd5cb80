"""Build frozen dataclasses from plain data, with strict keys and types and helpful errors."""

from __future__ import annotations

import dataclasses
import difflib
import math
import types
import typing
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeVar, cast

from sedd_cli.errors import RequestError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

T = TypeVar("T")


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
        raise RequestError(f"{path or 'recipe'}: expected keys and values, found {data!r}")
    declared = dataclasses.fields(cast("type[DataclassInstance]", cls))
    fields = {f.name: f for f in declared if f.init and f.name not in given}
    for key in data:
        if key not in fields:
            raise RequestError(f"{_join(path, key)}: unknown key{nearest(str(key), fields)}")
    hints = typing.get_type_hints(cls)
    values = {key: convert(hints[key], value, _join(path, key)) for key, value in data.items()}
    for name, field in fields.items():
        required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        if required and name not in values:
            raise RequestError(f"{_join(path, name)}: missing, it has no default")
    try:
        return cls(**values, **given)
    except ValueError as error:
        raise RequestError(f"{path}: {error}" if path else str(error)) from None


def convert(hint: Any, value: Any, path: str) -> Any:
    """Check `value` against a type annotation. Only 1 → 1.0 and YAML's "3e-4" → 0.0003 are converted."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        if value is None and type(None) in args:
            return None
        (hint,) = (a for a in args if a is not type(None))
        return convert(hint, value, path)
    if origin is tuple and args[-1] is ...:
        if not isinstance(value, list | tuple):
            raise RequestError(f"{path}: expected a list, found {value!r}")
        return tuple(convert(args[0], v, f"{path}[{i}]") for i, v in enumerate(value))
    if origin is Mapping:
        if not isinstance(value, Mapping):
            raise RequestError(f"{path}: expected keys and values, found {value!r}")
        return {convert(args[0], k, path): convert(args[1], v, _join(path, k)) for k, v in value.items()}
    if origin is tuple:
        if not isinstance(value, list | tuple) or len(value) != len(args):
            raise RequestError(f"{path}: expected a list of {len(args)} values, found {value!r}")
        return tuple(convert(a, v, f"{path}[{i}]") for i, (a, v) in enumerate(zip(args, value, strict=True)))
    if hasattr(hint, "from_data"):
        return hint.from_data(value, path)
    if dataclasses.is_dataclass(hint):
        return build(cast("type[Any]", hint), value, path)
    if hint is float and isinstance(value, int | float | str) and not isinstance(value, bool):
        with suppress(ValueError):
            if math.isfinite(number := float(value)):
                return number
    elif type(value) is hint:
        return value
    raise RequestError(f"{path}: expected {_TYPE_NAMES.get(hint, hint.__name__)}, found {value!r}")


def nearest(name: str, known: Iterable[str]) -> str:
    """The end of a message about an unknown name: the most similar known name, and all of them."""
    known = sorted(known)
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    meant = f", did you mean {close[0]!r}?" if close else "."
    return f"{meant} Accepted: {', '.join(known) or 'none'}"


def plain(value: Any) -> Any:
    """Convert a dataclass to mappings, lists and scalars: the inverse of `build`."""
    if hasattr(value, "to_data"):
        return value.to_data()
    if dataclasses.is_dataclass(value):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    return [plain(v) for v in value] if isinstance(value, tuple) else value


_TYPE_NAMES = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}


def _join(path: str, key: Any) -> str:
    return f"{path}.{key}" if path else str(key)
