"""A registered part of a recipe (graph, schedule, objective, sampler): its name and options."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from sedd_cli.core.graphs import GRAPHS
from sedd_cli.core.losses import OBJECTIVES
from sedd_cli.core.registry import Registry
from sedd_cli.core.samplers import SAMPLERS
from sedd_cli.core.schedules import SCHEDULES
from sedd_cli.errors import RequestError, displayed, shortened
from sedd_cli.recipe.build import Typed, build, nearest, to_data
from sedd_cli.recipe.outside import HINT
from sedd_cli.system.documents import parse_yaml


@dataclass(frozen=True)
class Part:
    """A name and options, such as `{name: absorbing, scale_by_sigma: true}`, checked against the registry.

    `unstated` holds the fields that a recipe does not state, because they follow from the data, with placeholder values
    that are valid.
    """

    registry: ClassVar[Registry]
    unstated: ClassVar[dict[str, Any]] = {}

    name: str
    options: Mapping[str, Any]

    def make(self, **unstated: Any) -> Any:
        """Make the part; `unstated` gives the fields that a recipe does not state (a graph's vocab_size)."""
        return self.registry[self.name](**self.options, **unstated)

    @classmethod
    def from_data(cls, data: Any, path: str) -> Self:
        """Build from a name or a mapping; RequestError names what is wrong."""
        if isinstance(data, str) and data:
            data = {"name": data}  # a name stands for the part with its defaults
        if not isinstance(data, Mapping) or "name" not in data:
            names = ", ".join(sorted(cls.registry))
            glued = [key for key in data if ":" in str(key)] if isinstance(data, Mapping) else []
            hint = f"; a space belongs behind the colon of {shortened(str(glued[0]))}" if glued else ""
            raise RequestError(f"{path}: expected a name ({names}) and its options, found {displayed(data)}{hint}")
        name, options = data["name"], {k: v for k, v in data.items() if k != "name"}
        if not isinstance(name, str) or name not in cls.registry:
            near = f"{nearest(str(name), cls.registry)}{cls.registry.forgotten(str(name))}{HINT}"
            raise RequestError(f"{path}.name: unknown {cls.registry.kind} {displayed(name)}{near}")
        name = str(name)  # also where it was typed behind `key=`
        cls._misplaced(name, options, path)
        made = build(cls.registry[name], options, path, **cls.unstated)
        return cls(name, {k: v for k, v in to_data(made).items() if k not in cls.unstated})

    @classmethod
    def from_text(cls, text: str, path: str) -> Self:
        """Build from what was typed in a command: a name, hyphens allowed, or `{name: gaussian, width: 0.2}`."""
        return cls.from_data(typed_part(text, path), path)

    @classmethod
    def _misplaced(cls, name: str, options: Mapping[str, Any], path: str) -> None:
        """Raise RequestError for an option that belongs to another part of the same kind."""
        own = {f.name for f in dataclasses.fields(cls.registry[name])}
        for key in set(options) - own:
            owners = [n for n, c in cls.registry.items() if key in {f.name for f in dataclasses.fields(c)}]
            if owners:
                raise RequestError(
                    f"{path}.{key}: is an option of the {cls.registry.kind} {' and '.join(owners)}, "
                    f"not of {displayed(name)}; remove it"
                )

    def to_data(self) -> dict[str, Any]:
        """The inverse of `from_data`."""
        return {"name": self.name, **self.options}


def typed_part(text: str, path: str) -> Any:
    """The plain data of a part as typed in a command; RequestError for braces that hold no YAML."""
    data = parse_yaml(text, path, plain=Typed) if text.lstrip().startswith("{") else text.strip()
    if isinstance(data, dict) and isinstance(data.get("name"), str):
        return data | {"name": data["name"].replace("-", "_")}
    return data.replace("-", "_") if isinstance(data, str) else data


@dataclass(frozen=True)
class TypedSampler:
    """A sampler as typed in a command: a name, hyphens allowed, or `{name: confidence, order: entropy}`.

    options: those that are stated, in the order of the sampler's fields.
    """

    name: str
    options: Mapping[str, Any]

    @classmethod
    def read(cls, text: str) -> TypedSampler:
        """Read what was typed; RequestError for an unknown name or option, or a value of another type."""
        data = typed_part(text, "sampler")
        if isinstance(data, str):
            if data not in SAMPLERS:
                near = f"{nearest(data, SAMPLERS)}{SAMPLERS.forgotten(data)}"
                raise RequestError(f"unknown sampler {shortened(data)!r}{near}{HINT}")
            return cls(data, {})
        part = SamplerPart.from_data(data, "sampler")
        return cls(part.name, {key: value for key, value in part.options.items() if key in data})

    @property
    def label(self) -> str:
        """Name and options in words: "confidence", "psi, kappa 0.5"."""
        return ", ".join([self.name, *(f"{key} {value}" for key, value in self.options.items())]).replace("_", "-")


def typed_list(text: str) -> tuple[str, ...]:
    """The items of a list with commas; a comma within braces does not divide."""
    return tuple(word.strip() for word in re.split(r",(?![^{]*})", text))


def spelled(part: Any) -> str:
    """A made graph or schedule in words: its name and the options that are not the defaults, "gaussian, width 0.2".

    What is measured is left out.
    """
    aside, words = ("vocab_size", part.measured), [part.name]
    for field in dataclasses.fields(part):
        value = getattr(part, field.name)
        if field.name not in aside and value != field.default:
            words.append(f"{field.name} {value}")
    return ", ".join(words)


class GraphPart(Part):
    """A graph; its vocabulary size follows from the tokenizer."""

    registry, unstated = GRAPHS, {"vocab_size": 2}


class SchedulePart(Part):
    """A noise schedule."""

    registry = SCHEDULES


class ObjectivePart(Part):
    """A training objective."""

    registry = OBJECTIVES


class SamplerPart(Part):
    """A sampler."""

    registry = SAMPLERS
