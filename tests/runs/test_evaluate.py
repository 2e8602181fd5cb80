"""Evaluation: error bars that mean something, protocols that differ as they should."""

from __future__ import annotations

import math

import pytest
import torch

from sedd_cli import load_model
from sedd_cli.errors import RequestError
from sedd_cli.runs.datasets import PrepareOptions
from sedd_cli.runs.evaluate import EvaluateOptions, evaluate, open_for
from sedd_cli.runs.events import Evaluated, Prepared
from sedd_cli.runs.prepare import prepare
from sedd_cli.text.shards import open_dataset


@pytest.fixture
def model(tiny_run):
    return load_model(tiny_run, device="cpu")


@pytest.fixture
def dataset(workplace, model):
    return _dataset(model.recipe.data.corpus, "char")


def _dataset(corpus: str, tokenizer: str):
    *_, last = prepare(PrepareOptions(corpus=corpus, tokenizer=tokenizer))
    assert isinstance(last, Prepared)
    return open_dataset(last.path)


def result(model, dataset, **options) -> dict:
    *_, last = evaluate(model, dataset, EvaluateOptions(**{"rel_error": 0.5, **options}))
    assert isinstance(last, Evaluated)
    return last.result


def test_a_result_names_everything_needed_to_repeat_it(model, dataset):
    found = result(model, dataset, split="test")
    assert found["fingerprint"] == dataset.manifest.fingerprint
    assert (found["split"], found["seed"], found["length"]) == ("test", 0, 24)
    for protocol in ("rigorous", "sedd-paper"):
        figures = found["bounds"][protocol]
        assert figures["replicates"] >= 4
        assert figures["perplexity"] == pytest.approx(math.exp(figures["nats_per_token"]))
    assert set(found["yardsticks"]) == {"unigram", "5-gram"}
    assert found["yardsticks"]["5-gram"] < found["yardsticks"]["unigram"]


def test_the_same_seed_repeats_the_number_and_another_does_not(model, dataset):
    rates = [
        result(model, dataset, seed=s, yardsticks=False)["bounds"]["rigorous"]["nats_per_token"] for s in (0, 0, 1)
    ]
    assert rates[0] == rates[1] != rates[2]


def test_the_batch_size_does_not_change_the_number(model, dataset, monkeypatch):
    from sedd_cli.runs import evaluate as module

    whole = result(model, dataset, yardsticks=False)["bounds"]["rigorous"]["nats_per_token"]
    monkeypatch.setattr(module, "TOKENS_AT_ONCE", 24)
    # the same draws in other batches: equal up to float32 rounding
    assert result(model, dataset, yardsticks=False)["bounds"]["rigorous"]["nats_per_token"] == pytest.approx(
        whole, rel=1e-5
    )


def test_a_remainder_counts_where_the_protocol_keeps_it(model, dataset):
    bounds = result(model, dataset)["bounds"]
    tokens = dataset.split("test").tokens
    assert tokens % 24
    assert bounds["rigorous"]["tokens"] == tokens
    assert bounds["sedd-paper"]["tokens"] == tokens - tokens % 24


def test_more_precision_takes_more_draws_and_is_reached(model, dataset):
    loose = result(model, dataset, rel_error=0.5, yardsticks=False)["bounds"]["rigorous"]
    asked = 0.7 * loose["nats_per_token_error"] / loose["nats_per_token"]
    tight = result(model, dataset, rel_error=asked, yardsticks=False)["bounds"]["rigorous"]
    assert tight["replicates"] > loose["replicates"] == 4
    assert tight["nats_per_token_error"] <= asked * tight["nats_per_token"]


def test_the_error_bar_covers_the_scatter_between_seeds(model, dataset):
    found = [result(model, dataset, seed=s, yardsticks=False)["bounds"]["rigorous"] for s in range(12)]
    rates = torch.tensor([f["nats_per_token"] for f in found])
    claimed = torch.tensor([f["nats_per_token_error"] for f in found]).pow(2).mean().sqrt()
    # both are estimates from a dozen values: within a factor of 2
    assert 0.5 < float(rates.std() / claimed) < 2


def test_an_untrained_model_scores_log_n_per_token(model, dataset):
    with torch.no_grad():
        for p in model.net.output_layer.linear.parameters():
            p.zero_()
    # z = 0: every token has probability 1/N and the scores are normalised, whatever is masked
    rate = result(model, dataset, yardsticks=False)["bounds"]["rigorous"]["nats_per_token"]
    assert rate == pytest.approx(math.log(model.graph.tokens), rel=1e-5)


def test_bound_of_single_sequences_agrees_with_their_mean(model, dataset):
    x0 = torch.from_numpy(dataset.split("test").read(0, 72)).view(3, 24)
    bound, error = model.bound(x0, draws=400)
    other, other_error = model.bound(x0, draws=400, seed=1)
    assert bound.shape == error.shape == (3,)
    # two independent estimates: within five of their joint standard errors
    assert ((bound - other).abs() < 5 * (error**2 + other_error**2).sqrt()).all()


def test_another_tokenizer_is_refused(model):
    with pytest.raises(RequestError, match="another tokenizer"):
        result(model, _dataset(model.recipe.data.corpus, "byte"))


def test_an_unknown_split_or_protocol_names_those_there_are(model, dataset):
    with pytest.raises(RequestError, match="train, validation, test"):
        result(model, dataset, split="dev")
    with pytest.raises(RequestError, match="rigorous, sedd-paper"):
        EvaluateOptions(protocols=("mdlm",))


def test_another_corpus_is_prepared_with_the_models_own_tokenizer(model, workplace):
    (workplace / "other.txt").write_text("\n".join(f"a hat ran over the mat {i}" for i in range(300)), encoding="utf-8")
    options = EvaluateOptions(rel_error=0.5, yardsticks=False)
    *_, last = open_for(model, str(workplace / "other.txt"), lambda data: evaluate(model, data, options))
    assert last.result["corpus"] != model.recipe.data.corpus
    assert last.result["tokens"] > 24


def test_a_split_shorter_than_a_block_is_an_error_under_the_papers_protocol(model, workplace):
    (workplace / "short.txt").write_text("\n".join(["the cat"] * 2), encoding="utf-8")
    options = EvaluateOptions(split="train", protocols=("sedd-paper",))
    with pytest.raises(RequestError, match="fewer than one block of 24"):
        list(open_for(model, str(workplace / "short.txt"), lambda data: evaluate(model, data, options)))


@pytest.mark.parametrize("protocol", ["rigorous", "sedd-paper"])
def test_each_protocol_is_the_bound_of_its_name(model, protocol):
    from sedd_cli.core.likelihood import paper_bound, rigorous_bound
    from sedd_cli.core.random import BOUND, Stream
    from sedd_cli.runs.evaluate import estimate

    index, v = torch.arange(3), torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64)
    x0 = torch.randint(0, model.graph.tokens, (3, 24))
    u, u_end = Stream(7, BOUND, index).uniforms(2, 24)
    with torch.no_grad():
        truth = (
            rigorous_bound(model.score, x0, v, u, u_end)
            if protocol == "rigorous"
            else paper_bound(model.score, x0, v, u)
        )
    assert torch.equal(estimate(model, protocol, x0, v, Stream(7, BOUND, index), 2), truth.double())


def test_bound_of_an_untrained_model_is_l_log_n(model):
    with torch.no_grad():
        for p in model.net.output_layer.linear.parameters():
            p.zero_()
    bound, _ = model.bound(torch.zeros(2, 24, dtype=torch.int64), draws=32)
    assert bound.tolist() == pytest.approx([24 * math.log(model.graph.tokens)] * 2, rel=1e-5)


def test_bound_refuses_what_it_cannot_do(model):
    x0 = torch.zeros(1, 24, dtype=torch.int64)
    with pytest.raises(RequestError, match="rigorous, sedd-paper"):
        model.bound(x0, protocol="rigorus")
    with pytest.raises(RequestError, match="longer than the model's 24"):
        model.bound(torch.zeros(1, 25, dtype=torch.int64))


def test_an_error_that_was_not_reached_is_said(model, dataset):
    from sedd_cli.runs.events import Warn

    options = EvaluateOptions(rel_error=1e-6, max_replicates=4, yardsticks=False)
    warnings = [e.text for e in evaluate(model, dataset, options) if isinstance(e, Warn)]
    assert len(warnings) == 2
    assert "--max-replicates" in warnings[0]
