"""The folder of a run that is not named: by its recipe, or by its text where that is another than the recipe's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sedd_cli.checkpoints.own_text import text_options
from sedd_cli.checkpoints.run_directory import RUNS
from sedd_cli.data.corpora import find_corpus, is_own_text
from sedd_cli.errors import RequestError
from sedd_cli.recipe import Recipe, shipped
from sedd_cli.recipe.load import recipe_file
from sedd_cli.recipe.stored import StoredRecipe, read_stored
from sedd_cli.system.documents import read_yaml


def default_run(source: str | Path, recipe: Recipe) -> Path:
    """Where `sedd train` stores a run without --run-dir.

    runs/NAME with the recipe's name. Where an override names another text than the recipe does, the text's name takes
    its place, so that runs of several texts do not collide: runs/CORPUS for a text of one's own, runs/NAME-CORPUS for a
    known corpus, where a shipped recipe is called like the text, and where runs/CORPUS is a run of another recipe. A
    run of this text under runs/NAME, as earlier versions made it, is gone on with.

    Args:
        source: The YAML file, or the name of a shipped recipe.
        recipe: The recipe with its overrides.
    """
    usual, path = RUNS / recipe.name, recipe_file(source)
    written = read_yaml(path)
    renamed = recipe.name != written.get("name", path.stem)
    before = _stored(usual)
    if renamed or _corpus(written) == recipe.data.corpus or (before and before.corpus == recipe.data.corpus):
        return usual
    name = find_corpus(text_options(recipe)).name.lstrip(".") or "text"
    there = _stored(RUNS / name)
    alone = is_own_text(recipe.data.corpus) and name not in shipped() and (not there or there.name == recipe.name)
    return RUNS / (name if alone else f"{recipe.name}-{name}")


def _corpus(written: dict[str, Any]) -> str | None:
    """The text that a recipe's file names; None where it names none."""
    data = written.get("data")
    return data.get("corpus") if isinstance(data, dict) else None


def _stored(run: Path) -> StoredRecipe | None:
    """The recipe of a run; None where the folder is none."""
    try:
        return read_stored(run / "recipe.yaml")
    except (OSError, RequestError):
        return None
