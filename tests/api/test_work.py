"""The public functions in Python: what they return, print and refuse."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
import torch

import sedd_cli
from sedd_cli import evaluate, load_model, prepare, train
from sedd_cli.api import work
from sedd_cli.core.samplers.euler import Euler
from sedd_cli.errors import RequestError
from sedd_cli.system import software


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
    assert "%|" not in shown.err  # bars are for terminals and notebooks
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
    assert trained.to_dict()["made_by"]["command"] == "sedd_cli.train"
    assert trained.to_dict()["model_fingerprint"] == measured.to_dict()["model_fingerprint"]
    stored = json.loads(trained.report.evaluation.read_text())
    assert stored["made_by"]["command"] == "sedd_cli.train"
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
    twice, _ = model.bound([text, text], draws=8)
    assert twice[0] != twice[1]  # draws of their own
    assert torch.equal(twice[1:], model.bound(text, draws=8, first=1)[0])
    torch.testing.assert_close(model.bound(tokens.expand(2, -1), draws=8)[0], twice)
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
        (lambda m: m.sample(1, lenght=8), "sample has no option 'lenght', did you mean 'length'"),
        (lambda m: m.sample(1, no_thinning=True), "sample has no option 'no_thinning'; write thinning=False"),
        (lambda m: m.sample(1, prompt="a", prompts=["b"]), "sample: prompt and prompts are one option"),
        (lambda m: train("markov", rundir="x"), "train has no option 'rundir', did you mean 'run_dir'"),
        (lambda m: train("markov", lr=1e-3), "train has no option 'lr'; .*: give \"train.lr=0.001\""),
        (lambda m: train("markov", steps=5), "train has no option 'steps'; .*: give \"train.steps=5\""),
        (lambda m: evaluate(m, try_bf16=True), "evaluate has no option 'try_bf16'"),
        (
            lambda m: m.sample(progress=False),
            "sample has no option 'progress', which prepare, train and evaluate have.* Accepted: all_rows, .* steps,",
        ),
        (lambda m: m.infill("a [MASK:2]", quiet=True), "'quiet', for which prepare, train and evaluate have"),
        (lambda m: m.sample(device="cpu"), "sample has no option 'device', which load_model and evaluate have"),
        (lambda m: evaluate(m, verbose=False), "evaluate has no option 'verbose', did you mean 'progress'"),
    ],
)
def test_a_wrong_option_is_named_with_the_nearest_right_one(model, call, words):
    with pytest.raises(RequestError, match=words):
        call(model)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda m: m.sample(1, steps="8"), "steps: expected a whole number, found '8'"),
        (lambda m: m.sample("2"), "n: expected a whole number, found '2'"),
        (lambda m: m.sample(1, temperature="hot"), "temperature: expected a number, found 'hot'"),
        (lambda m: m.sample(1, normalized="yes"), "normalized: expected true or false, found 'yes'"),
        (lambda m: m.sample(1, prompts="abc"), "prompts: expected a list of texts"),
        (lambda m: m.sample(1, sampler=Euler), r"sampler: .* found the class Euler; write Euler\(\)"),
        (lambda m: m.sample(1, sampler=3), "sampler: expected a name or an object, found 3"),
        (lambda m: m.sample(1, sampler=Euler(steps=4), steps=8), "steps is an option of the sampler"),
        (lambda m: m.infill(3), "infill takes a template, a dictionary or a list of them, found 3"),
        (lambda m: m.infill(["a [MASK:2]", 3]), "infill takes templates and dictionaries, found 3"),
        (lambda m: m.infill([{"prefix": "the", "template": "a"}]), "job 1: it takes either a template, or"),
        (lambda m: m.infill({"prefix": 3}), "job 1: prefix: expected text, found 3"),
        (lambda m: m.infill(prefix=3), "prefix: expected text, found 3"),
        (lambda m: m.bound(3), "bound takes a text, several of them, or tokens; found 3"),
        (lambda m: m.bound(["the", 3]), "bound takes a text, several of them, or tokens; found 3"),
        (lambda m: train("markov", trackers=3), "trackers: expected a list, found 3"),
        (lambda m: evaluate(m, blocks=1.5), "blocks: expected a whole number, found 1.5"),
        (lambda m: evaluate(m, precision="bf16"), "precision is for a model that is loaded here; .* fp32"),
        (lambda m: evaluate(m, steps=8), "options of the sampler"),
    ],
)
def test_a_value_of_another_type_is_refused_in_one_line(model, call, words):
    with pytest.raises(RequestError, match=words) as error:
        call(model)
    assert "\n" not in str(error.value)


def test_a_command_s_names_mean_the_same(model):
    (one,) = model.sample(1, prompt="the", steps=2, seed=3)
    assert one.text.startswith("the")
    assert [s.text for s in model.sample(1, prompts=["the"], steps=2, seed=3)] == [one.text]
    drawn = model.sample(1, legacy_float32_gumbel=True, steps=2)
    assert drawn[0].draws == "float32-gumbel"
    assert model.sample(np.int64(1), steps=np.int64(2))[0].steps == 2


def test_a_sampler_is_taken_as_an_object(model):
    first, again = model.sample(1, sampler=Euler(steps=4), seed=2), model.sample(1, sampler="euler", steps=4, seed=2)
    assert first[0].tokens == again[0].tokens
    assert (first[0].sampler, first[0].steps) == ("euler", 4)
    assert model.infill("the [MASK:3]", sampler=Euler(steps=2))[0].sampler == "euler"


def test_a_dictionary_is_a_job_as_a_line_of_the_command_is(model):
    gap = {"prefix": "the ", "suffix": " sat", "length": 12}
    found = model.infill(
        [gap | {"id": "x", "mark": 3}, "a [MASK:2]", {"template": "a [MASK:2]", "n": 2}], steps=2, seed=3
    )
    assert [len(one) for one in found] == [1, 1, 2]
    assert found[0][0].text == model.infill(**gap, steps=2, seed=3)[0].text
    assert found[0][0].to_dict()["job"] == {"id": "x", "line": 1, "extra": {"mark": 3}}
    assert found[1][0].text == found[2][0].text
    assert len(model.infill({"template": "a [MASK:2]", "n": 2}, steps=2)) == 2
    with pytest.warns(UserWarning, match="found 'sufix', did you mean 'suffix'"):
        model.infill({"prefix": "the", "sufix": "sat"}, steps=2)


def test_results_name_the_call_the_versions_and_the_model(model, tiny_run):
    measured = evaluate(model, protocol="rigorous", precision="auto", rel_error=0.5, blocks=4, progress=False)
    found = measured.to_dict()
    assert found["made_by"]["command"] == "sedd_cli.evaluate"
    assert {"date", "software", "revision"} <= set(found["made_by"])
    assert list(found["bounds"]) == ["rigorous"]
    assert found["precision"] in repr(measured) or found["precision"] == "fp32"
    for drawn, call in ((model.sample(steps=2), "sample"), (model.infill("the [MASK:2]"), "infill")):
        one = drawn[0].to_dict()
        assert one["made_by"]["command"] == f"Model.{call}"
        assert (one["model"], one["fingerprint"], one["step"]) == (str(tiny_run), model.fingerprint, 12)
        assert "made_by" not in repr(drawn[0])
        json.dumps(one)
    assert software.made_by()["command"] is None


def test_evaluate_computes_in_the_command_s_precision(tiny_run, monkeypatch):
    seen = []
    monkeypatch.setattr(work, "evaluate_job", lambda model, _, wanted: seen.append((model.precision, wanted.try_bf16)))
    monkeypatch.setattr(work, "followed", lambda job, progress: job)
    monkeypatch.setattr(work, "prepared_for", lambda *_: None)
    monkeypatch.setattr(work, "replace", lambda result, **changes: result)
    evaluate(tiny_run, device="cpu")
    evaluate(tiny_run, device="cpu", precision="fp32")
    evaluate(tiny_run, device="cpu", precision="bf16")
    evaluate(load_model(tiny_run, "cpu"))
    assert seen == [("fp32", True), ("fp32", False), ("bf16", False), ("fp32", True)]


def test_a_list_of_overrides_is_refused_with_the_right_form(workplace):
    with pytest.raises(RequestError, match=re.escape("is a text such as 'train.steps=500', found ['train.steps=4']")):
        sedd_cli.train(workplace / "tiny.yaml", ["train.steps=4"])
