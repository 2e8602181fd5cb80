"""Options that a training measures of its text, such as the edges of a graph, and keeps in its recipe."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TypeVar

from sedd_cli.core.tokens import TokenStatistics
from sedd_cli.errors import RequestError
from sedd_cli.recipe.assemble import make_graph
from sedd_cli.recipe.build import to_data
from sedd_cli.recipe.part import Part
from sedd_cli.recipe.recipe import Recipe

T = TypeVar("T")
P = TypeVar("P", bound=Part)


def measured(recipe: Recipe, vocab_size: int, tokens: TokenStatistics) -> Recipe:
    """The recipe with what its graph and its schedule measure of the training text.

    Options that the recipe states are kept.

    Raises:
        RequestError: An option cannot be measured: an embedding of another size, for example.
    """
    if _open(recipe.graph):
        graph = recipe.graph.make(vocab_size=vocab_size)
        recipe = dataclasses.replace(recipe, graph=_with(recipe.graph, _try("graph", lambda: graph.measure(tokens))))
    if _open(recipe.noise):
        graph, schedule = make_graph(recipe, vocab_size), recipe.noise.make()
        found = _try("noise", lambda: schedule.measure(tokens, graph))
        recipe = dataclasses.replace(recipe, noise=_with(recipe.noise, found))
    return recipe


def as_measured(recipe: Recipe, stored: Recipe) -> Recipe:
    """The recipe with the measured options of a stored one, where it leaves them empty and is the same part."""
    for key in ("graph", "noise"):
        wanted, found = getattr(recipe, key), getattr(stored, key)
        name = _open(wanted)
        if name and found.name == wanted.name:
            part = dataclasses.replace(wanted, options={**wanted.options, name: found.options[name]})
            recipe = dataclasses.replace(recipe, **{key: part})
    return recipe


def _open(part: Part) -> str | None:
    """The name of the option that is to be measured, if there is one and it is empty."""
    name = part.registry[part.name].measured  # type: ignore[attr-defined]
    return name if name and not part.options[name] else None


def _with(part: P, made: object) -> P:
    """The part with the options of an object made of it."""
    return dataclasses.replace(part, options={key: to_data(getattr(made, key)) for key in part.options})


def _try(key: str, measure: Callable[[], T]) -> T:
    try:
        return measure()
    except ValueError as error:
        raise RequestError(f"{key}: {error}") from None
