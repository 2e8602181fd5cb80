"""A recipe as it is stored, for reading only: also where its parts from outside are not imported."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sedd_cli.errors import RequestError
from sedd_cli.recipe.load import recipe_from
from sedd_cli.recipe.outside import REGISTRIES, import_installed, is_missing
from sedd_cli.system.documents import read_yaml

#: What stands for a missing part where a recipe cannot do without one.
STAND_INS = {"graph": "absorbing", "noise": "loglinear"}


@dataclass(frozen=True)
class StoredRecipe:
    """What can be read of a recipe without its parts.

    Attributes:
        name: Of the recipe.
        corpus: Its text.
        steps: Of the training.
        data: All keys with their values, defaults included; those of a missing part as they were stored.
    """

    name: str
    corpus: str
    steps: int
    data: dict[str, Any]
    #: Whether the objective logs a bound on the likelihood; not that of a part that is not registered.
    logs_bound: bool

    def to_data(self) -> dict[str, Any]:
        """Mappings, lists and scalars, as `Recipe.to_data`."""
        return self.data


def read_stored(path: Path) -> StoredRecipe:
    """Read the recipe of a run; RequestError where it is damaged, OSError where it cannot be read."""
    import_installed()
    data = read_yaml(path)
    if not isinstance(data, dict):
        raise RequestError(f"{path}: expected keys and values, found {type(data).__name__}")
    data.setdefault("name", path.stem)
    missing = {key: data[key] for key in REGISTRIES if is_missing(data, key)}
    present = {key: value for key, value in data.items() if key not in missing}
    recipe = recipe_from(present | {key: STAND_INS[key] for key in missing if key in STAND_INS})
    plain = recipe.to_data() | missing
    logs_bound = "objective" not in missing and recipe.objective.make().logs_bound
    return StoredRecipe(recipe.name, recipe.data.corpus, recipe.train.steps, plain, logs_bound)
