"""How two recipes differ, key by key."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from typing import Any, NamedTuple


class Difference(NamedTuple):
    """A key whose values differ; the values as they stand behind `key=`. As text: "key: old → new"."""

    key: str
    old: str
    new: str

    def __str__(self) -> str:
        return f"{self.key}: {self.old} → {self.new}"

    def within(self, keys: Collection[str]) -> bool:
        """Whether the key is one of these, or lies below one: "sampler.steps" is within "sampler"."""
        return any(self.key == key or self.key.startswith(f"{key}.") for key in keys)


def differences(old: Mapping[str, Any], new: Mapping[str, Any], path: str = "") -> list[Difference]:
    """The differences of two recipes' plain data (`Recipe.to_data`)."""
    found = []
    for key in dict.fromkeys([*old, *new]):
        a, b = old.get(key), new.get(key)
        name = f"{path}.{key}" if path else key
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            found += differences(a, b, name)
        elif a != b:
            found.append(Difference(name, spelled(a), spelled(b)))
    return found


def spelled(value: Any) -> str:
    """A value as it stands behind `key=`."""
    return value if isinstance(value, str) else json.dumps(value)
