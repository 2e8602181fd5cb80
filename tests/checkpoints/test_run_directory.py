"""The folders of runs by their names."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
from support.jobs import returned

import sedd_cli
from sedd_cli.checkpoints import checkpoint
from sedd_cli.checkpoints.foreign_weights import check_source
from sedd_cli.checkpoints.own_text import text_options
from sedd_cli.checkpoints.run_directory import MAY_CHANGE, by_name, find_run, near
from sedd_cli.cli.inputs import check_written, note_inputs
from sedd_cli.data.prepare import prepare
from sedd_cli.data.prepared import PrepareOptions, find_prepared
from sedd_cli.errors import DamageError, RequestError
from sedd_cli.evaluation.scorers.scorer import load_scorer
from sedd_cli.recipe import load_recipe


def test_the_guide_lists_the_keys_that_may_change_on_resuming():
    guide = (Path(sedd_cli.__file__).parent / "guides" / "scale.md").read_text(encoding="utf-8")
    found = re.search(r"`train\.\{([^}]*)\}`, `model\.attention`,\s+`sampler` and `report`", guide)
    assert found is not None
    keys = {f"train.{key.strip()}" for key in found[1].split(",")}
    assert keys | {"model.attention", "sampler", "report", "parts"} == set(MAY_CHANGE)


def test_a_misspelt_folder_is_answered_by_its_own_name_and_not_by_the_path_that_all_share(tmp_path):
    (tmp_path / "stories").mkdir()
    assert near(tmp_path / "storys") == f"; did you mean {str(tmp_path / 'stories')!r}?"
    assert near(tmp_path / "0123") == near(tmp_path / "none" / "a") == ""
    (tmp_path / "home").mkdir()
    (tmp_path / "bin.txt").touch()
    assert near(tmp_path / "nope") == near(tmp_path / "nofile.txt") == ""


@pytest.fixture
def named(tiny_run, tmp_path, monkeypatch):
    """Runs under ./runs."""
    for name in ("shake", "gpt2"):
        shutil.copytree(tiny_run, tmp_path / "runs" / name)
    monkeypatch.chdir(tmp_path)


def test_a_run_is_found_by_its_name_but_a_word_of_the_hub_is_a_model_of_the_hub(named):
    assert find_run("shake") == Path("runs/shake")
    assert by_name("shake") == "runs/shake"
    assert by_name("gpt2") == "gpt2"
    assert by_name("runs/gpt2") == "runs/gpt2"
    assert by_name("./nothing") == "./nothing"


def test_only_a_run_below_the_folder_of_runs_is_found_by_its_name(named):
    shutil.copytree("runs/shake", "runs/group/deep")
    shutil.copytree("runs/shake", "shake2")
    assert find_run("group/deep") == Path("runs/group/deep")
    for name in ("../shake2", "group/../shake", str(Path("nothing").absolute())):
        assert find_run(name) == Path(name)


def test_every_option_that_takes_a_model_takes_the_name_of_a_run(named):
    with pytest.raises(RequestError, match=r"runs/shake .* has no exact likelihoods"):
        load_scorer("shake", "cpu")
    Path("my.txt").write_text("the cat sat on the mat")
    recipe = load_recipe("quickstart", ["init_from=shake", "data.tokenizer=null", "data.corpus=my.txt"])
    assert text_options(recipe).tokenizer == "runs/shake"
    check_source("shake")


def test_of_several_prepared_copies_of_its_text_a_run_goes_on_with_its_own(tiny_run, tmp_path, monkeypatch):
    monkeypatch.setenv("SEDD_HOME", str(tmp_path / "home"))
    folders = []
    for text in ("one", "two"):
        (tmp_path / text).mkdir()
        (tmp_path / text / "wiki.train.raw").write_text(text)
        made = returned(prepare(PrepareOptions("wikitext2", tokenizer="byte", local=tmp_path / text)))
        folders.append((made.folder, made.manifest.fingerprint))
    recipe = load_recipe("quickstart", ["data.corpus=wikitext2", "data.tokenizer=byte"])
    for folder, fingerprint in folders:
        began = SimpleNamespace(json=lambda name, data=fingerprint: {"data": data})
        monkeypatch.setattr(checkpoint, "latest", lambda run, began=began: began)
        assert find_prepared(text_options(recipe, tiny_run)) == folder
    with pytest.raises(RequestError, match="2 prepared texts are called wikitext2"):
        find_prepared(text_options(recipe))


def test_no_output_replaces_a_file_of_a_run_that_is_named(named):
    class Model:
        name, opts, metavar = "model", ["--model"], "MODEL"

    note_inputs([Model()], {"model": "shake"})
    try:
        with pytest.raises(RequestError, match=r"--out.*--model"):
            check_written({"--out": Path("runs/shake/recipe.yaml")})
    finally:
        note_inputs([], {})


def test_a_checkpoint_that_a_training_removes_while_it_is_loaded_gives_way_to_the_next(tiny_run, tmp_path, monkeypatch):
    run = tmp_path / "run"
    shutil.copytree(tiny_run, run)
    name = (run / "latest").read_text().strip()
    removed = []

    def pruned(file):
        """Reads a recipe; the first time a training has written the next checkpoint, and removed this one, before."""
        if not removed:
            removed.append(file)
            (run / "checkpoints" / name).rename(run / "checkpoints" / "step-99")
            (run / "latest").write_text("step-99")
        return load_recipe(file)

    monkeypatch.setattr("sedd_cli.checkpoints.load.load_recipe", pruned)
    model = sedd_cli.load_model(run, device="cpu")
    assert len(removed) == 1
    assert model.tokenizer_source == str(run / "checkpoints" / "step-99")
    (run / "checkpoints" / "step-99" / "recipe.yaml").unlink()
    with pytest.raises(DamageError, match=re.escape("recipe.yaml is missing")):  # what nothing replaces is an error
        sedd_cli.load_model(run, device="cpu")
