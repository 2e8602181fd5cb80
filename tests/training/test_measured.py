"""Runs whose graph or schedule is measured of the training text: stored, resumed, loaded, refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from support.jobs import completed

import sedd_cli
from sedd_cli.checkpoints.export import ExportOptions, export
from sedd_cli.checkpoints.load import open_model
from sedd_cli.errors import RequestError
from sedd_cli.recipe import load_recipe
from sedd_cli.system.events import Warn
from sedd_cli.training.train import TrainOptions, train

NEIGHBOURS = ("graph=nearest_neighbour", "noise=geometric")


def run(workplace: Path, folder: Path, *overrides: str):
    recipe = load_recipe(workplace / "tiny.yaml", overrides)
    return completed(train(recipe, TrainOptions(folder, "cpu", report=False)))[1]


@pytest.mark.parametrize("objective", ["score_entropy", "concrete_score", "d3pm"])
def test_neighbours_of_the_text_are_kept_with_the_model(workplace, tmp_path, objective):
    run(workplace, tmp_path, *NEIGHBOURS, f"objective={objective}", "train.steps=6")
    stored, model = load_recipe(tmp_path / "recipe.yaml"), open_model(tmp_path, "cpu")
    edges = stored.graph.options["edges"]
    assert edges.count(";") == model.vocab_size - 1
    assert model.graph.edges == load_recipe(model.tokenizer_source + "/recipe.yaml").graph.options["edges"] == edges
    assert run(workplace, tmp_path, *NEIGHBOURS, f"objective={objective}", "train.steps=6").finished  # the same run
    with pytest.raises(RequestError, match="holds a run of another recipe"):
        run(workplace, tmp_path, *NEIGHBOURS, "graph.neighbours=2", f"objective={objective}", "train.steps=6")


@pytest.mark.parametrize("parts", [NEIGHBOURS, ("graph=uniform", "noise=mutual_information")])
def test_the_recipe_of_a_run_goes_on_and_begins_another_run(workplace, tmp_path, parts, sedd):
    run(workplace, tmp_path / "run", *parts, "train.steps=6", "train.schedule=constant", "data.tokenizer=char")
    assert sedd("train", tmp_path / "run", "train.steps=8", "--no-report", "--device", "cpu").code == 0
    stored = tmp_path / "run" / "recipe.yaml"
    words = ("train", stored, "seed=1", "--run-dir", tmp_path / "other", "--no-report", "--device", "cpu")
    assert sedd(*words).code == 0
    first, second = load_recipe(stored), load_recipe(tmp_path / "other" / "recipe.yaml")
    assert (first.graph, first.noise) == (second.graph, second.noise)


def test_neighbours_of_an_embedding_outlive_its_file(workplace, tmp_path):
    size = open_model(_gaussian_run(workplace, tmp_path / "gaussian"), "cpu").vocab_size
    np.save(tmp_path / "e.npy", np.arange(size, dtype=np.float32)[:, None])
    changes = (*NEIGHBOURS, "graph.neighbours=1", f"graph.embedding={tmp_path / 'e.npy'}", "train.steps=6")
    run(workplace, tmp_path / "run", *changes)
    (tmp_path / "e.npy").unlink()
    assert open_model(tmp_path / "run", "cpu").graph.edges.startswith("1;")
    np.save(tmp_path / "e.npy", np.zeros((size + 1, 2)))
    with pytest.raises(RequestError, match=rf"has {size + 1} rows, the vocabulary {size} tokens"):
        run(workplace, tmp_path / "other", *changes)


def _gaussian_run(workplace: Path, folder: Path) -> Path:
    run(workplace, folder, "graph=gaussian", "noise=geometric", "train.steps=6")
    return folder


@pytest.mark.parametrize("sampler", ["euler", "tweedie"])
def test_models_of_symmetric_graphs_sample_and_are_bounded(workplace, tmp_path, sampler):
    folder = _gaussian_run(workplace, tmp_path / "gaussian")
    model = sedd_cli.load_model(folder, "cpu")
    first, again = (model.sample(n=2, steps=6, sampler=sampler, seed=3) for _ in range(2))
    assert [one.text for one in first] == [one.text for one in again]
    scores = model.log_score(torch.zeros(1, 4, dtype=torch.int64), torch.tensor([0.3]))
    assert bool(scores.isfinite().all())


@pytest.mark.parametrize("graph", ["uniform", "nearest_neighbour"])
def test_frequencies_of_the_text_make_the_schedule(workplace, tmp_path, graph):
    changes = (f"graph={graph}", "noise=mutual_information", "train.steps=6")
    run(workplace, tmp_path, *changes)
    model = open_model(tmp_path, "cpu")
    assert model.schedule.curve[-1][1] >= 0.999
    told = model.describe()
    assert "mutual_information (eps 0.001, curve measured)" in told
    assert ("edges measured" in told) == (graph == "nearest_neighbour")
    assert len(told) < 400
    assert run(workplace, tmp_path, *changes).finished


def test_another_graph_or_text_on_the_recipe_of_a_run_has_its_schedule_measured_again(workplace, tmp_path, sedd):
    run(workplace, tmp_path / "run", "graph=uniform", "noise=mutual_information", "train.steps=2")
    stored = load_recipe(tmp_path / "run" / "recipe.yaml").noise.options["curve"]
    for graph in ("graph=absorbing", "graph={name: gaussian}", "graph.name=gaussian"):
        assert load_recipe(tmp_path / "run" / "recipe.yaml", [graph]).noise.options["curve"] == []
    assert load_recipe(tmp_path / "run" / "recipe.yaml", ["seed=1"]).noise.options["curve"] == stored
    words = ["graph=nearest_neighbour", "data.tokenizer=char", "train.steps=2", "noise=mutual_information"]
    run(workplace, tmp_path / "near", *words)
    near = load_recipe(tmp_path / "near" / "recipe.yaml")
    for text in ("data.corpus=other.txt", "data.tokenizer=byte"):
        other = load_recipe(tmp_path / "near" / "recipe.yaml", [text])
        assert (other.noise.options["curve"], other.graph.options["edges"]) == ([], "")
    corpus = f"data.corpus={near.data.corpus}"
    assert load_recipe(tmp_path / "near" / "recipe.yaml", [corpus, "data.tokenizer=char"]) == near
    refused = sedd("train", tmp_path / "run", "graph=absorbing")
    assert refused.code == 2
    assert "graph.name: uniform → absorbing" in refused.err
    assert "noise.curve" not in refused.err
    refused = sedd("train", tmp_path / "run", "noise=loglinear")
    assert "noise.name: mutual_information → loglinear; noise.curve: " in refused.err
    assert len(refused.err) < 1000
    same = sedd("train", tmp_path / "run", "graph=uniform", "--no-report", "--device", "cpu")
    assert "is at step 2 of 2" in same.err or same.code == 0, same.err


@pytest.mark.parametrize(
    ("changes", "lacks"),
    [
        (NEIGHBOURS, "graph nearest_neighbour"),
        (("graph=uniform", "noise=mutual_information"), "noise mutual_information"),
        (("graph=hybrid", "noise=cosine"), "graph hybrid and no noise cosine"),
    ],
)
def test_an_export_is_the_same_model_and_says_who_reads_it(workplace, tmp_path, changes, lacks):
    run(workplace, tmp_path / "run", *changes, "train.steps=6")
    model = open_model(tmp_path / "run", "cpu")
    events, _ = completed(export(model, ExportOptions(tmp_path / "out")))
    warned = [one.text for one in events if isinstance(one, Warn)]
    assert f"the published code has no {lacks}: only sedd reads this export" in warned
    (tmp_path / "out" / "recipe.yaml").unlink()  # config.json alone determines the model
    again = open_model(tmp_path / "out", "cpu")
    assert (again.graph, again.schedule) == (model.graph, model.schedule)
    assert again.fingerprint == model.fingerprint


def test_words_have_no_order(workplace, tmp_path):
    with pytest.raises(RequestError, match="the ids of the tokenizer 'bpe:300' have none"):
        run(workplace, tmp_path, "graph=gaussian", "noise=geometric", "data.tokenizer=bpe:300")
    assert not any(tmp_path.iterdir())
