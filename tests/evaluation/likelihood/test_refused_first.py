"""A protocol that does not fit the model is refused before a text is prepared."""

from __future__ import annotations

import pytest
import torch
from support import sedd_networks

from sedd_cli.checkpoints.load import open_model
from sedd_cli.errors import RequestError
from sedd_cli.evaluation.likelihood import evaluate
from sedd_cli.evaluation.likelihood.evaluate import EvaluateOptions, evaluate_all
from sedd_cli.evaluation.likelihood.texts import Text
from sedd_cli.inference.bound import MonteCarloOptions
from sedd_cli.inference.sampling import Sampling
from sedd_cli.system.distributed import Dist


@pytest.mark.parametrize(
    ("saved", "protocol", "sampler", "said"),
    [
        ("bd3lm", "sampler", None, "fill all positions at once, and .* fills blocks one after another"),
        ("bd3lm", "radd", None, "'radd' is for masked models"),
        ("mdlm", "duo", None, "'duo' is for models of uniform noise"),
        ("mdlm", "gidd", None, "'gidd' is for models of GIDD"),
        ("mdlm", "discrete", None, "'discrete' is for models in discrete time"),
        ("mdlm", "sampler", "first_hitting", "'sampler' is for samplers with steps"),
    ],
)
def test_a_protocol_that_does_not_fit_is_refused_before_any_work(tmp_path, monkeypatch, saved, protocol, sampler, said):
    sedd_networks.FORMATS[saved][0](tmp_path / "m")
    model = open_model(tmp_path / "m", "cpu")
    for work in ("prepared_for", "try_bf16"):
        monkeypatch.setattr(evaluate, work, lambda *_: pytest.fail("worked"))
    options = EvaluateOptions(
        protocols=(protocol,), try_bf16=True, sampling=Sampling(sampler=sampler) if sampler else Sampling()
    )
    texts = [Text(name, None, {}) for name in ("pydocs", "lm1b")]
    with pytest.raises(RequestError, match=said):
        list(evaluate_all(model, texts, options, Dist(0, 1, torch.device("cpu"))))


@pytest.mark.parametrize(
    ("saved", "protocol", "estimator", "used"),
    [("radd", "radd", "iid", "count"), ("mdlm", "sampler", "count", "paths")],
)
def test_an_estimator_that_a_protocol_does_not_take_is_refused_before_any_work(
    tmp_path, monkeypatch, saved, protocol, estimator, used
):
    sedd_networks.FORMATS[saved][0](tmp_path / "m")
    model = open_model(tmp_path / "m", "cpu")
    monkeypatch.setattr(evaluate, "prepared_for", lambda *_: pytest.fail("worked"))
    options = EvaluateOptions(protocols=("rigorous", protocol), monte_carlo=MonteCarloOptions(estimator=estimator))
    said = f"the estimator {estimator} has no effect with protocol '{protocol}', whose estimator is {used}"
    with pytest.raises(RequestError, match=said):
        list(evaluate_all(model, [Text("pydocs")], options, Dist(0, 1, torch.device("cpu"))))
    evaluate.check_measures(model, EvaluateOptions(protocols=("rigorous", protocol)))


@pytest.mark.parametrize("words", [("estimator", "iid"), ("max-nfe", 64), ("rel-error", 0.005), ("seed", 0)])
def test_options_of_draws_are_refused_with_a_causal_model_before_it_is_loaded(sedd, monkeypatch, words):
    monkeypatch.setattr("sedd_cli.evaluation.scorers.pretrained.load_exact", lambda *_: pytest.fail("loaded"))
    done = sedd("eval", "--model", "gpt2", "--dataset", "wikitext2", f"--{words[0]}", words[1])
    assert (done.code, done.err.count("\n")) == (2, 1), done.err
    assert f"--{words[0]} has no effect with gpt2, whose likelihood is exact" in done.err


@pytest.mark.parametrize("words", [("cloze",), ("sweep", "--steps", 2, "--judge", "gpt2")])
def test_a_causal_model_that_a_command_cannot_use_is_refused_before_it_is_loaded(sedd, monkeypatch, tmp_path, words):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sedd_cli.evaluation.scorers.pretrained.load_causal", lambda *_: pytest.fail("loaded"))
    done = sedd(*words, "--model", "gpt2-large")
    assert done.code == 2, done.err
    assert f"a {words[0]} needs a diffusion model: gpt2-large" in done.err
