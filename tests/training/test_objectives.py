"""Models of every objective, from training to evaluation and samples."""

from __future__ import annotations

import dataclasses
import json
import math

import pytest
import torch

from sedd_cli import load_model
from sedd_cli.api.work import evaluate
from sedd_cli.checkpoints.export import ExportOptions, export
from sedd_cli.core.losses import OBJECTIVES
from sedd_cli.errors import RequestError
from sedd_cli.evaluation.likelihood.evaluate import default_protocols
from sedd_cli.recipe import load_recipe
from sedd_cli.training.train import TrainOptions, train

#: Objective and graph: all that go together.
PAIRS = [(name, "absorbing") for name, objective in OBJECTIVES.items() if not objective().learns_exponents]
PAIRS += [(name, "uniform") for name, graph in PAIRS if not OBJECTIVES[name].needs_mask]
PAIRS += [(name, "state_dependent") for name in ("genmd4", "d3pm")]


@pytest.fixture(scope="module")
def trained(workplace, tmp_path_factory):
    """objective, graph → the folder of a finished run. Read only."""
    made = {}

    def once(objective: str, graph: str = "absorbing"):
        if (objective, graph) not in made:
            folder = tmp_path_factory.mktemp("objectives") / "run"
            noise = "geometric" if graph == "uniform" and objective != "d3pm" else "loglinear"
            changes = [
                f"objective={objective}",
                f"graph={graph}",
                f"noise={noise}",
                "report.every=6",
                "report.blocks=4",
            ]
            list(train(load_recipe(workplace / "tiny.yaml", changes), TrainOptions(folder, "cpu", report=False)))
            made[objective, graph] = folder
        return made[objective, graph]

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SEDD_HOME", str(workplace / "home"))
        yield once


@pytest.mark.parametrize(("objective", "graph"), PAIRS)
def test_every_objective_trains_evaluates_and_samples(sedd, trained, objective, graph):
    run = trained(objective, graph)
    model = load_model(run, device="cpu")
    assert model.objective.name == objective
    assert model.exact is (objective == "autoregressive")
    draws = [] if model.exact else ["--rel-error", 0.2]  # which an exact likelihood does without
    done = sedd("eval", "--model", run, "--no-baselines", *draws, "--json")
    assert done.code == 0, done.err
    found = json.loads(done.out)
    assert tuple(found["bounds"]) == default_protocols(model)
    assert found["kind"] == model.kind
    assert all(0 < bound["bits_per_char"] < 20 for bound in found["bounds"].values())
    (one, two) = model.sample(2, seed=3)
    assert len(one.tokens) == model.length
    assert one.tokens != two.tokens
    assert [s.tokens for s in load_model(run, device="cpu").sample(2, seed=3)] == [one.tokens, two.tokens]
    seen = [json.loads(line) for line in (run / "metrics.jsonl").open()]
    assert [r["step"] for r in seen if r["kind"] == "validation"] == [6]


def test_d3pm_is_measured_by_its_own_bound_and_by_that_of_continuous_time(sedd, trained):
    words = ["eval", "--model", trained("d3pm"), "--no-baselines", "--rel-error", 0.02, "--max-nfe", 64, "--json"]
    found = json.loads(sedd(*words).out)
    own = found["bounds"]["discrete"]
    both = json.loads(sedd(*words, "--protocol", "rigorous").out)["bounds"]["rigorous"]
    assert own["estimator"] == "stratified"
    assert found["estimator"] == "stratified"  # not count, the default of the graph
    refused = sedd(*words, "--estimator", "count")
    assert refused.code == 2
    assert "the estimator count has no effect with protocol 'discrete', whose estimator is stratified" in refused.err
    # a thousand steps are nearly continuous
    apart = abs(own["bits_per_char"] - both["bits_per_char"])
    assert apart < 4 * math.hypot(own["bits_per_char_error"], both["bits_per_char_error"])


def test_options_of_draws_are_refused_with_an_autoregressive_run(sedd, trained):
    run = trained("autoregressive")
    for words in (["--estimator", "iid"], ["--max-nfe", 8], ["--rel-error", 0.1], ["--seed", 1]):
        done = sedd("eval", "--model", run, *words)
        assert done.code == 2
        assert f"{words[0]} has no effect with {run}, whose likelihood is exact" in done.err
    for name, value in {"estimator": "iid", "max_nfe": 8}.items():
        with pytest.raises(RequestError, match=f"{name} has no effect with .*, whose likelihood is exact"):
            evaluate(run, progress=False, **{name: value})


def test_the_discrete_protocol_is_for_models_in_discrete_time(sedd, trained, tiny_run):
    with pytest.raises(RequestError, match="is for models in discrete time"):
        load_model(tiny_run).bound(torch.zeros(1, 4, dtype=torch.int64), protocol="discrete")
    for run in (tiny_run, trained("autoregressive")):
        done = sedd("eval", "--model", run, "--protocol", "discrete")
        assert done.code == 2
        assert "is for models in discrete time (d3pm)" in done.err


def test_scores_of_a_mean_model_are_normalised_by_construction(trained):
    model = load_model(trained("masked_cross_entropy"), device="cpu")
    x, sigma = torch.full((1, 8), model.graph.mask), torch.tensor([0.7])
    totals = model.log_score(x, sigma)[..., : model.vocab_size].exp().sum(-1) * torch.expm1(sigma)
    torch.testing.assert_close(totals, torch.ones_like(totals), rtol=1e-5, atol=0)
    (plain,), (lever,) = model.sample(1, seed=1), model.sample(1, seed=1, normalized=True)
    assert plain.tokens == lever.tokens  # it is nothing else than what the model is
    assert lever.levers == {}


def test_models_that_mean_something_else_are_other_models(trained):
    """The same weights, read as logits or as scores: not one fingerprint."""
    model = load_model(trained("masked_cross_entropy"), device="cpu")
    recipe = dataclasses.replace(model.recipe, objective=load_recipe("quickstart").objective)
    assert dataclasses.replace(model, recipe=recipe).fingerprint != model.fingerprint


@pytest.mark.parametrize("objective", ["masked_cross_entropy", "d3pm", "autoregressive"])
def test_what_has_no_scores_is_not_exported(trained, tmp_path, objective):
    with pytest.raises(RequestError, match=f"scores only, found a model of {objective}"):
        list(export(load_model(trained(objective)), ExportOptions(tmp_path / "out")))


def test_concrete_scores_are_scores_and_are_exported(trained, tmp_path):
    model = load_model(trained("concrete_score"))
    list(export(model, ExportOptions(tmp_path / "out")))
    assert load_model(tmp_path / "out").fingerprint == model.fingerprint


def test_an_autoregressive_model_goes_from_left_to_right(sedd, trained):
    run = trained("autoregressive")
    model = load_model(run, device="cpu")
    assert model.describe().split(": ")[1].startswith("autoregressive, ")
    (sample,) = model.sample(1, prompts=("the cat",))
    assert sample.text.startswith("the cat")
    assert sample.sampler == "left_to_right"
    tokens = torch.tensor([model.tokenizer.encode("the list is sorted")])
    nats, error = model.bound(tokens)
    assert float(error) == 0
    assert float(nats) == pytest.approx(float(model.nats(tokens)))
    for ask in (lambda: model.log_score(tokens, torch.ones(1)), lambda: model.loss(tokens, torch.ones(1), tokens)):
        with pytest.raises(RequestError, match="has no scores"):
            ask()
    with pytest.raises(RequestError, match="longer than the model's 24"):
        model.bound(tokens.repeat(1, 3))
    with pytest.raises(RequestError, match="it cannot fill a gap that text follows"):
        model.infill("the [MASK:3] sat")
    (filled,) = model.infill("the [MASK:2-4]", candidates=2)
    assert filled.bound_error == 0
    for words in (["--sampler", "tweedie"], ["--steps", 4]):
        done = sedd("sample", "--model", run, *words)
        assert done.code == 2
        assert "left" in done.err
    done = sedd("inspect", run, "--json")
    assert done.code == 0, done.err
    assert [f["check"] for f in json.loads(done.out)["findings"]] == ["weights", "sample entropy"]


def test_what_has_no_noise_tells_no_loss_by_noise_level(sedd, trained):
    for objective, bins in (("autoregressive", 0), ("d3pm", 5)):
        run = trained(objective)
        steps = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        assert {len(record["loss_by_t"]) for record in steps if "loss_by_t" in record} == {bins}
        done = sedd("status", run, "--plot")
        assert done.code == 0, done.err
        assert ("by noise level" in done.out) is bool(bins)
        assert (run / "curve.png").stat().st_size > 1000


def test_left_to_right_is_for_causal_models(sedd, tiny_run):
    done = sedd("sample", "--model", tiny_run, "--sampler", "left_to_right")
    assert done.code == 2
    assert "is no causal network" in done.err


def test_what_needs_a_mask_is_refused_before_training(workplace, tmp_path):
    recipe = load_recipe(workplace / "tiny.yaml", ["objective=masked_cross_entropy", "graph=uniform"])
    with pytest.raises(RequestError, match=r"objective: masked_cross_entropy needs a graph with MASK .*uniform"):
        list(train(recipe, TrainOptions(tmp_path / "run", "cpu")))
    assert not (tmp_path / "run").exists()


def test_fine_tuning_does_not_mix_what_outputs_mean(workplace, trained, tiny_run, tmp_path):
    recipe = load_recipe(workplace / "tiny.yaml", [f"init_from={trained('d3pm')}"])
    with pytest.raises(RequestError, match=r"init_from: .* with the objective d3pm, this recipe has score_entropy"):
        list(train(recipe, TrainOptions(tmp_path / "run", "cpu")))
