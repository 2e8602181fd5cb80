"""Registries: the names of graphs, noise schedules, objectives and samplers in a recipe."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TypeVar

C = TypeVar("C", bound=type)


class Registry(Mapping[str, type]):
    """A mapping name → class. The file of each class adds it with the decorator `@REGISTRY.register`.

    package: the package that holds a file for each class; None if a single file holds them.
    """

    def __init__(self, kind: str, package: str | None = None):
        self.kind, self.package = kind, package
        self._classes: dict[str, type] = {}

    def register(self, cls: C) -> C:
        """Class decorator: enter `cls` under its `name`.

        Raises:
            TypeError: It has no name, or is no frozen dataclass.
            ValueError: Another class has the name.
        """
        name = getattr(cls, "name", None)
        if not isinstance(name, str):
            raise TypeError(f'{cls.__qualname__} has no name: write `name: ClassVar[str] = "..."` in the class')
        parameters = cls.__dict__.get("__dataclass_params__")  # of its own, not those of a base class
        if parameters is None or not parameters.frozen:
            raise TypeError(f"{cls.__qualname__} is no dataclass: write @dataclass(frozen=True) below .register")
        other = self._classes.get(name, cls)
        if (other.__module__, other.__qualname__) != (cls.__module__, cls.__qualname__):
            first, second = (f"{one.__module__}.{one.__qualname__}" for one in (other, cls))
            raise ValueError(f"two classes have the {self.kind} name {name!r}: {first} and {second}")
        self._classes[name] = cls
        return cls

    def forgotten(self, name: str) -> str:
        """The end of a message about an unknown name: the file NAME.py of the package, if nothing has imported it."""
        file = getattr(sys.modules.get(self.package or ""), "__file__", None)
        name = name.replace("-", "_")
        if file is None or not name.isidentifier() or f"{self.package}.{name}" in sys.modules:
            return ""
        own = Path(file).with_name(f"{name}.py")
        if not own.is_file() or ".register\n" not in own.read_text(encoding="utf-8"):
            return ""
        return f"; {own.name} is not imported in {own.parent.name}/__init__.py"

    def __getitem__(self, name: str) -> type:
        return self._classes[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._classes)

    def __len__(self) -> int:
        return len(self._classes)
