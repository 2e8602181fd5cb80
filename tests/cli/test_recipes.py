"""Finding a recipe and its keys: `sedd recipes`, options that are keys, misspelt keys, the cost before a training."""

from __future__ import annotations

import json
import re
import shlex

import pytest

from sedd_cli.recipe import load_recipe, shipped
from sedd_cli.recipe.keys import WORDS, is_key, keys, meant


def test_every_recipe_that_is_listed_can_be_shown_and_used(sedd, tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    listed = sedd("recipes")
    assert listed.code == 0
    for name in shipped():
        assert re.search(rf"\b{name}\b", listed.out), name
    shown = sedd("recipes", "show", "quickstart")
    (tmp_path / "mine.yaml").write_text(shown.out)
    assert load_recipe(tmp_path / "mine.yaml") == load_recipe("quickstart")
    assert "#" in shown.out  # as it is written, with its comments
    assert json.loads(sedd("recipes", "show", "quickstart", "--json").out) == load_recipe("quickstart").to_data()
    assert set(json.loads(sedd("recipes", "--json").out)) == set(shipped())


def test_a_misspelt_recipe_is_answered_with_the_nearest(sedd):
    refused = sedd("recipes", "show", "quikstart")
    assert refused.code == 2
    assert "'quickstart'" in refused.err


@pytest.mark.parametrize(
    "words",
    [
        ["--lr", "1e-3"], ["--lr=1e-3"], ["--steps", "7"], ["--batch-size", "8"], ["--seed", "5"], ["--hidden-size=32"],
        ["--learning-rate", "0.1"], ["--tokenizer", "char"], ["--init-from", "a run"],
    ],
)  # fmt: skip
def test_an_option_that_is_a_key_is_answered_with_an_override_that_works(sedd, words):
    refused = sedd("train", "quickstart", *words)
    assert refused.code == 2
    override = shlex.split(refused.err.partition("write ")[2])
    assert load_recipe("quickstart", [" ".join(override)]) != load_recipe("quickstart")


def test_an_option_that_is_nearly_an_option_is_left_to_the_command(sedd):
    assert "--fresh" in sedd("train", "quickstart", "--fresj").err
    assert "--lr" not in sedd("sample", "--lr", "1").err.partition("write")[2]


@pytest.mark.parametrize("key", sorted(keys()))
@pytest.mark.parametrize("change", ["swapped", "doubled", "without its section"])
def test_the_nearest_right_key_is_found_for_each_key(key, change):
    section, _, leaf = key.rpartition(".")
    if len(leaf) < 4 or leaf in WORDS:
        return
    wrong = {
        "swapped": f"{leaf[0]}{leaf[2]}{leaf[1]}{leaf[3:]}",
        "doubled": f"{leaf[:2]}{leaf[1:]}",
        "without its section": leaf,
    }[change]
    typed = f"{section}.{wrong}" if section and change != "without its section" else wrong
    if is_key(typed):
        return
    found = meant(typed)
    assert found is not None
    assert found.rpartition(".")[2] == leaf


def test_an_unknown_key_in_a_file_is_answered_with_its_right_place(tmp_path):
    from sedd_cli.errors import RequestError

    (tmp_path / "a.yaml").write_text(dump := "lr: 1.0e-3\ngraph: absorbing\n")
    with pytest.raises(RequestError, match=r"did you mean 'train\.lr'"):
        load_recipe(tmp_path / "a.yaml")
    (tmp_path / "a.yaml").write_text(dump.replace("lr: 1.0e-3", "train: {step: 3}"))
    with pytest.raises(RequestError, match=r"did you mean 'train\.steps'"):
        load_recipe(tmp_path / "a.yaml")


def test_a_dry_run_measures_the_time_here(sedd, workplace, tiny_run):
    words = ["train", workplace / "tiny.yaml", "--dry-run", "--json"]
    plan = json.loads(sedd(*words).out)["plan"]
    assert re.match(r"about \d+ second|less than a second", plan["on this machine"])
    longer = json.loads(sedd(*words, "train.steps=100000000").out)["plan"]
    assert re.match(r"about [\d.,]+ hours", longer["on this machine"])
    large = json.loads(sedd("train", "gpt2_medium", "--dry-run", "--json", "train.batch=100000").out)["plan"]
    assert large["on this machine"].startswith("not measured")
