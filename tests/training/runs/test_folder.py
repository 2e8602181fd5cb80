"""The folder of a run that is not named."""

from __future__ import annotations

from pathlib import Path

import pytest

from sedd_cli.recipe import dump_recipe, load_recipe
from sedd_cli.training.runs.folder import default_run


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my.txt").write_text("a line\n" * 50)
    return tmp_path


def folder(source: str, *overrides: str, begun: bool = False) -> str:
    recipe = load_recipe(source, overrides)
    found = default_run(source, recipe)
    if begun:
        found.mkdir(parents=True)
        (found / "recipe.yaml").write_text(dump_recipe(recipe))
    return str(found)


def test_two_recipes_on_one_text_do_not_share_a_folder(here):
    text = "data.corpus=my.txt"
    assert folder("mini/characters", text, begun=True) == str(Path("runs", "my"))
    assert folder("quickstart", text, begun=True) == str(Path("runs", "quickstart-my"))
    # each is found again
    assert folder("mini/characters", text) == str(Path("runs", "my"))
    assert folder("quickstart", text) == str(Path("runs", "quickstart-my"))
    assert folder("quickstart") == str(Path("runs", "quickstart"))
