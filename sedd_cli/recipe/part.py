"""A registered part (graph, noise, objective, sampler) as it stands in a recipe: its name and its options."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from sedd_cli.core.graphs import GRAPHS
from sedd_cli.core.losses import OBJECTIVES
from sedd_cli.core.registry import Registry
from sedd_cli.core.samplers import SAMPLERS
from sedd_cli.core.schedules import SCHEDULES
from sedd_cli.errors import RequestError
from sedd_cli.recipe.build import build, nearest, plain


@dataclass(frozen=True)
class Part:
    """`{name: absorbing, scale_by_sigma: true}`, checked against the registry but not yet made.

    `late` holds the fields that no recipe states because they follow from something else, with a value
    that passes the class's own checks.
    """

    registry: ClassVar[Registry]
    late: ClassVar[dict[str, Any]] = {}

    name: str
    options: Mapping[str, Any]

    def make(self, **late: Any) -> Any:
        """The part itself; `late` gives what the recipe could not know (a graph's number of tokens)."""
        return self.registry[self.name](**self.options, **late)

    @classmethod
    def from_data(cls, data: Any, path: str) -> Part:
        if isinstance(data, str):
            data = {"name": data}  # short for a part with its defaults
        if not isinstance(data, Mapping) or "name" not in data:
            names = ", ".join(sorted(cls.registry))
            raise RequestError(f"{path}: expected a name ({names}) and its options, found {data!r}")
        name, options = data["name"], {k: v for k, v in data.items() if k != "name"}
        if not isinstance(name, str) or name not in cls.registry:
            raise RequestError(f"{path}.name: unknown {cls.registry.kind} {name!r}{nearest(str(name), cls.registry)}")
        cls._misplaced(name, options, path)
        made = build(cls.registry[name], options, path, **cls.late)
        return cls(name, {k: v for k, v in plain(made).items() if k not in cls.late})

    @classmethod
    def _misplaced(cls, name: str, options: Mapping[str, Any], path: str) -> None:
        """A key that another part of the same kind has is not a typing error: say whose it is."""
        own = {f.name for f in dataclasses.fields(cls.registry[name])}
        for key in set(options) - own:
            owners = [n for n, c in cls.registry.items() if key in {f.name for f in dataclasses.fields(c)}]
            if owners:
                raise RequestError(
                    f"{path}.{key}: belongs to the {cls.registry.kind} {' and '.join(owners)}, "
                    f"it means nothing with {name!r}; remove it"
                )

    def to_data(self) -> dict[str, Any]:
        return {"name": self.name, **self.options}


class GraphPart(Part):
    """A graph; how many tokens it has follows from the tokenizer."""

    registry, late = GRAPHS, {"vocab_size": 2}


class SchedulePart(Part):
    """A noise schedule."""

    registry = SCHEDULES


class ObjectivePart(Part):
    """What training minimises."""

    registry = OBJECTIVES


class SamplerPart(Part):
    """How samples are drawn."""

    registry = SAMPLERS
