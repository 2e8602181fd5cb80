"""GenMD4 from training to evaluation, samples and refusals: its exponents are learned, kept, and bound to the graph."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch

from sedd_cli import load_model
from sedd_cli.checkpoints import checkpoint
from sedd_cli.errors import RequestError
from sedd_cli.recipe import load_recipe
from sedd_cli.system.events import TrainStep
from sedd_cli.training.train import TrainOptions, train

KEYS = ("graph=state_dependent", "objective=genmd4", "train.lr=0.02")


def run(workplace, folder, *changes, stop_at=None):
    known = {change.split("=")[0] for change in changes}
    kept = [key for key in KEYS if key.split("=")[0] not in known]
    recipe = load_recipe(workplace / "tiny.yaml", [*kept, *changes])
    events = train(recipe, TrainOptions(folder, "cpu", report=False))
    for event in events:
        if isinstance(event, TrainStep) and event.step == stop_at:
            events.close()
            break
    return folder


@pytest.fixture(scope="module")
def trained(workplace, tmp_path_factory):
    """The folder of a finished run. Read only."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SEDD_HOME", str(workplace / "home"))
        return run(workplace, tmp_path_factory.mktemp("genmd4") / "run")


def test_the_exponents_are_learned_averaged_and_bound_to_the_graph_that_is_loaded(trained):
    found = checkpoint.latest(trained)
    live, average = found.tensors("weights")["exponents"], found.tensors("ema")["exponents"]
    model = load_model(trained, device="cpu")
    assert live.shape == (model.vocab_size,)
    assert float(live.abs().min()) > 0
    assert not torch.equal(live, average)
    torch.testing.assert_close(model.graph.exponents, average.double().exp())
    assert torch.equal(found.tensors("adamw")["exponents.exp_avg"] != 0, torch.ones_like(live, dtype=torch.bool))
    low, high = (float(end) for end in (model.graph.exponents.min(), model.graph.exponents.max()))
    assert f"exponents {low:.2f} to {high:.2f}" in model.describe()


def test_without_learning_the_exponents_stay_what_the_graph_has(workplace, tmp_path):
    changes = ("objective={name: genmd4, learn: false}", "graph={name: state_dependent, power: 2}", "train.steps=6")
    folder = run(workplace, tmp_path / "run", *changes)
    assert "exponents" not in checkpoint.latest(folder).tensors("weights")
    model = load_model(folder, device="cpu")
    assert model.graph.exponents.tolist() == [2.0] * model.vocab_size
    assert "exponents" not in model.describe()


def test_the_exponents_belong_to_the_models_fingerprint(trained):
    model = load_model(trained, device="cpu")
    before = dataclasses.replace(model).fingerprint
    with torch.no_grad():
        model.net.exponents[0] += 1
    assert dataclasses.replace(model).fingerprint != before


def test_they_begin_at_the_graphs_power_and_without_weight_decay(workplace, tmp_path):
    still = ("train.steps=1", "train.warmup=0", "train.lr=1e-30", "train.weight_decay=0.5")
    folder = run(workplace, tmp_path / "run", "graph={name: state_dependent, power: 1.5}", *still)
    assert {round(w, 6) for w in load_model(folder, device="cpu").graph.exponents.tolist()} == {1.5}


def test_a_resumed_run_is_the_uninterrupted_one_bit_for_bit(workplace, trained, tmp_path):
    folder = run(workplace, tmp_path / "run", "train.log_every=1", stop_at=8)
    assert checkpoint.latest(folder).step < 12
    run(workplace, folder)
    for name in ("ema", "weights", "adamw"):
        mine, theirs = (checkpoint.latest(one).tensors(name) for one in (folder, trained))
        assert all(torch.equal(mine[key], theirs[key]) for key in theirs), name


def test_micro_batches_do_not_change_the_gradient(workplace, tmp_path):
    plain = ("train.steps=2", "model.dropout=0.0")
    whole = run(workplace, tmp_path / "whole", *plain)
    parts = run(workplace, tmp_path / "parts", *plain, "train.micro_batch=3")
    mine, theirs = (checkpoint.latest(one).tensors("weights") for one in (parts, whole))
    for name, value in theirs.items():
        torch.testing.assert_close(mine[name], value, rtol=1e-4, atol=1e-6)


def test_training_goes_on_from_a_model_with_exponents_and_from_one_without(workplace, trained, tmp_path):
    still = ("train.steps=1", "train.warmup=0", "train.lr=1e-30")
    again = run(workplace, tmp_path / "again", f"init_from={trained}", *still)
    assert torch.equal(load_model(again).net.exponents, load_model(trained).net.exponents)
    fixed = run(workplace, tmp_path / "fixed", "objective=d3pm", *still)
    begun = run(workplace, tmp_path / "begun", f"init_from={fixed}", *still)
    assert float(load_model(begun).net.exponents.abs().max()) < 1e-20
    with pytest.raises(RequestError, match=r"init_from: .* has learned exponents; set objective=genmd4"):
        run(workplace, tmp_path / "lost", f"init_from={trained}", "objective=d3pm")


def test_it_is_evaluated_by_the_bounds_that_hold_for_it(sedd, trained):
    options = ["--no-baselines", "--rel-error", 0.2, "--json"]
    for protocol in ("rigorous", "sedd-paper", "sampler"):
        done = sedd("eval", "--model", trained, "--protocol", protocol, *options)
        assert done.code == 0, done.err
        (bound,) = json.loads(done.out)["bounds"].values()
        assert 0 < bound["bits_per_char"] < 20


def test_it_is_sampled_and_fills_gaps_by_its_own_reverse_process(sedd, trained):
    for sampler in ("tweedie", "euler"):
        done = sedd("sample", "--model", trained, "-n", 2, "--sampler", sampler, "--json")
        assert done.code == 0, done.err
    text = json.loads(sedd("infill", "--model", trained, "the [MASK:4]s[MASK:2-3] a", "--json").out)
    assert "text" in json.dumps(text)
    assert sedd("infill", "--model", trained, "the [MASK:4] a", "--candidates", 3).code == 0


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("sample", "--sampler", "first_hitting"), "needs one that masks all tokens alike"),
        (("sample", "--sampler", "confidence"), "needs one that masks all tokens alike"),
        (("sample", "--remask", 0.1), "needs one that masks all tokens alike"),
        (("sample", "--sampler", "psi"), "psi needs a graph that masks all tokens alike, at rate 1"),
        (("sample", "--sampler", "ddim"), "ddim needs a graph that masks all tokens alike"),
        (("sample", "--sampler", "flow_matching"), "flow_matching needs a graph that masks all tokens alike"),
        (("sample", "--correctors", 1), "a corrector needs a graph that masks all tokens alike"),
        (("eval", "--estimator", "count"), "state_dependent masks tokens in times of their own: use stratified"),
        (("eval", "--protocol", "discrete"), "is for models in discrete time"),
        (("export", "--to", "out"), "no layout of an export holds learned exponents"),
        (("export", "--transformers", "--to", "out"), "no layout of an export holds learned exponents"),
    ],
)
def test_what_has_no_meaning_for_it_is_refused_in_one_line(sedd, trained, tmp_path, monkeypatch, words, why):
    monkeypatch.chdir(tmp_path)
    model = (trained,) if words[0] == "export" else ("--model", trained)
    done = sedd(words[0], *model, *words[1:], "--quiet")
    assert done.code == 2
    assert why in done.err
    assert done.err.count("error: ") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        (["objective=genmd4"], "genmd4 learns when each token turns into MASK, the graph absorbing has nothing to"),
        (["objective=genmd4", "graph=uniform"], "the graph uniform has nothing to learn: set graph=state_dependent"),
        (["objective=masked_cross_entropy", "graph=state_dependent"], "needs a graph that masks all tokens alike"),
        (["objective=genmd4", "graph={name: state_dependent, power: -1}"], "power must be positive"),
        ([*KEYS, "noise=mutual_information"], "needs transitions that are known before training"),
        ([*KEYS, "sampler=first_hitting"], "needs a graph that masks all tokens alike"),
    ],
)
def test_a_learned_schedule_that_cannot_be_is_refused_before_training(sedd, workplace, tmp_path, changes, why):
    done = sedd("train", workplace / "tiny.yaml", *changes, "--run-dir", tmp_path / "run", "--device", "cpu")
    assert done.code == 2
    assert why in done.err
    assert not (tmp_path / "run").exists()


def test_an_export_that_would_be_refused_is_not_proposed(trained, tiny_run):
    from sedd_cli.cli import next_commands
    from sedd_cli.recipe import load_recipe

    for folder, proposed in ((trained, False), (tiny_run, True)):
        with pytest.MonkeyPatch.context() as patch:
            said = []
            patch.setattr(next_commands, "say_commands", lambda view, commands, said=said: said.extend(commands))
            next_commands.after_training(None, folder, load_recipe(folder / "recipe.yaml"))
        assert ("export" in {words[0] for words in said}) is proposed
