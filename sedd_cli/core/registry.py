"""Registries: the names of graphs, noise schedules, objectives and samplers in a recipe."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TypeVar

C = TypeVar("C", bound=type)


class Registry(Mapping[str, type]):
    """A mapping name → class. The file of each class adds it with the decorator `@REGISTRY.register`."""

    def __init__(self, kind: str):
        self.kind = kind
        self._classes: dict[str, type] = {}

    def register(self, cls: C) -> C:
        """Class decorator: enter `cls` under its `name`."""
        self._classes[cls.name] = cls
        return cls

    def __getitem__(self, name: str) -> type:
        return self._classes[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._classes)

    def __len__(self) -> int:
        return len(self._classes)
