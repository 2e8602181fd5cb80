"""Graphs and schedules in words, for the line on a model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from sedd_cli.core.graphs import Graph
from sedd_cli.core.schedules import Schedule


def options_of(part: Graph | Schedule, told: Sequence[Any] = ()) -> dict[str, Any]:
    """The fields of a part by name, with those of its own parts, except for the parts in `told`.

    Values measured on a training text are long: they are replaced by the word "measured".
    """
    found: dict[str, Any] = {}
    for name, value in asdict(part).items():
        if isinstance(value, dict):
            found |= {} if value in told else value
        elif name == part.measured:
            found |= {name: "measured"} if value else {}
        else:
            found[name] = value
    return found


def spelled(name: str, options: dict[str, Any]) -> str:
    """A name and its options in words."""
    words = ", ".join(
        f"{key} {value:g}" if isinstance(value, float) else f"{key} {value}".lower() for key, value in options.items()
    )
    return f"{name} ({words})" if words else name
