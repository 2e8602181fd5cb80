"""The public functions in Python: what they return, print and refuse."""

from __future__ import annotations

import json

import pytest
import torch

import sedd_cli
from sedd_cli import evaluate, load_model, prepare, train
from sedd_cli.errors import RequestError


@pytest.fixture(scope="module")
def model(tiny_run):
    return load_model(tiny_run, "cpu")


def test_dir_shows_the_public_names():
    assert {"Model", "evaluate", "load_model", "prepare", "train"} <= set(dir(sedd_cli))
    assert all(getattr(sedd_cli, name) is not None for name in dir(sedd_cli))


@pytest.mark.slow
def test_prepare_train_and_evaluate_return_results_that_print_short(workplace, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    prepared = prepare(workplace / "corpus.txt", tokenizer="char", progress=False)
    assert "train" in repr(prepared)
    assert "tokens" in repr(prepared)
    trained = train(workplace / "tiny.yaml", "train.steps=4", "train.save_every=4", device="cpu")
    shown = capsys.readouterr()
    assert "training" in shown.err  # the bar
    assert trained.finished
    assert repr(trained).startswith("TrainResult(runs/tiny, finished at step 4, rigorous ≤ ")
    assert len(repr(trained)) < 200
    again = train(tmp_path / "runs" / "tiny", report=False, device="cpu", progress=False)
    assert again.step == 4
    measured = evaluate(tmp_path / "runs" / "tiny", rel_error=0.5, protocols="rigorous", blocks=4, progress=False)
    assert "rigorous ≤" in repr(measured)
    assert len(repr(measured)) < 200
    for result in (prepared, trained, measured):
        json.dumps(result.to_dict())
    assert list(measured.to_dict()["bounds"]) == ["rigorous"]


def test_samples_print_their_text_and_no_ids(model):
    (sample,) = model.sample(1, seed=1)
    assert repr(sample) == f"Sampled({sample.text!r}, evaluations={sample.nfe})"
    assert sample.to_dict()["tokens"] == sample.tokens


def test_a_list_of_templates_gives_a_list_for_each(model):
    templates = ["the [MASK:3] sat", "a [MASK:2]"]
    found = model.infill(templates, 2, steps=2, seed=3)
    assert [[one.template for one in fillings] for fillings in found] == [[t, t] for t in templates]
    assert [one.text for one in found[1]] == [one.text for one in model.infill(templates[1], 2, steps=2, seed=3)]
    assert repr(found[0][0]).startswith("Filled('the ")


def test_bound_takes_text(model):
    text = "the cat sat"
    tokens = torch.tensor([model.tokenizer.encode(text)])
    nats, error = model.bound(text, draws=8)
    assert torch.equal(nats, model.bound(tokens, draws=8)[0])
    assert nats.shape == error.shape == (1,)
    several, _ = model.bound([text, "a dog"], draws=8)
    assert several.shape == (2,)
    assert torch.equal(several[:1], nats)
    with pytest.raises(RequestError, match="longer than the model's"):
        model.bound(text * 10)
    with pytest.raises(RequestError, match="empty text"):
        model.bound("")


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda m: m.sample(1, step=3), "sample has no option 'step', did you mean 'steps'"),
        (lambda m: m.infill("a [MASK:2]", candidate=3), "infill has no option 'candidate', did you mean 'candidates'"),
        (lambda m: evaluate(m, blcks=3), "evaluate has no option 'blcks', did you mean 'blocks'"),
        (lambda m: prepare("my.txt", tokeniser="char"), "prepare has no option 'tokeniser', did you mean 'tokenizer'"),
        (lambda m: train("quickstart", freshly=True), "train has no option 'freshly', did you mean 'fresh'"),
        (lambda m: train("quickstart", "train.stepz=3"), "train.stepz: unknown key, did you mean 'train.steps'"),
        (lambda m: m.sample(1, sampler="tweedy"), "unknown sampler 'tweedy', did you mean 'tweedie'"),
    ],
)
def test_a_wrong_option_is_named_with_the_nearest_right_one(model, call, words):
    with pytest.raises(RequestError, match=words):
        call(model)
