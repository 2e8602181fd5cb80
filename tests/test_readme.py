"""README tells the truth: its commands parse, its recipes ship, its settings match the package."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import typer.main

from sedd_cli.cli.app import app
from sedd_cli.recipe import load_recipe, shipped

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = sorted(
    {
        command.strip().replace("torchrun --standalone --nproc-per-node=8 -m sedd_cli", "sedd")
        for line in re.findall(r"^    (.*)$|`((?:sedd|torchrun) [^`]+)`", README, re.MULTILINE)
        for command in "".join(line).split("&&")
        if command.strip().startswith(("sedd ", "torchrun "))
    }
)


def test_no_placeholder_is_left():
    assert not re.search(r"@[A-Z]+@|TODO|FIXME", README)


def test_readme_has_commands_to_check():
    assert {command.split()[1] for command in COMMANDS} >= {"prepare", "train", "eval", "sample", "infill", "doctor"}


@pytest.mark.parametrize("command", COMMANDS)
def test_a_readme_command_parses(command):
    verb, *words = shlex.split(command.replace("RECIPE", "quickstart").replace("[key=value ...]", ""))[1:]
    group = typer.main.get_command(app)
    context = group.commands[verb].make_context(verb, words)
    assert context.params is not None
    if recipe := context.params.get("recipe"):
        load_recipe(ROOT / recipe if recipe.startswith("recipes/") else recipe, context.params["overrides"] or [])


def test_the_python_example_runs(tiny_run):
    (example,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert '"runs/quickstart"' in example
    # a model of lower-case characters and a length of 24 stands in for the quickstart's
    example = (
        example.replace("runs/quickstart", str(tiny_run)).replace("Return", "return").replace(" of the list.", " list")
    )
    exec(compile(example, "README.md", "exec"), {})


def test_every_shipped_recipe_is_in_readme():
    for name in shipped():
        assert f"`{name}`" in README, name


def test_the_set_up_commands_are_the_gates():
    gate = (ROOT / ".ci" / "run").read_text()
    assert "pip install -e '.[dev]' && pytest" in README
    assert "-e '.[dev]'" in gate
    assert re.search(r"^pytest$", gate, re.MULTILINE)
    assert "pip install -e . && sedd train recipes/quickstart.yaml" in README
