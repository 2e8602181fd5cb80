"""Evaluation: error bars that mean something, protocols that differ as they should."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from support.jobs import completed, returned

from sedd_cli import load_model
from sedd_cli.data.prepare import prepare
from sedd_cli.data.prepared import PrepareOptions
from sedd_cli.data.shards import open_dataset
from sedd_cli.errors import RequestError
from sedd_cli.evaluation.likelihood.evaluate import EvaluateOptions, evaluate, evaluate_all
from sedd_cli.evaluation.likelihood.protocols import Blocks
from sedd_cli.evaluation.likelihood.summary import Estimates, between_documents, summary
from sedd_cli.evaluation.likelihood.texts import Text
from sedd_cli.inference.bound import MonteCarloOptions, shared
from sedd_cli.inference.sampling import Sampling
from sedd_cli.system.distributed import Dist
from sedd_cli.system.events import Evaluated

ALONE = Dist(0, 1, torch.device("cpu"))


@pytest.fixture
def model(tiny_run):
    return load_model(tiny_run, device="cpu")


@pytest.fixture
def dataset(workplace, model):
    return _dataset(model.recipe.data.corpus, "char")


def _dataset(corpus: str, tokenizer: str):
    made = returned(prepare(PrepareOptions(corpus=corpus, tokenizer=tokenizer)))
    return open_dataset(made.folder)


MONTE_CARLO = [f.name for f in dataclasses.fields(MonteCarloOptions)]


def options_of(**options) -> EvaluateOptions:
    """EvaluateOptions, the fields of MonteCarloOptions among them."""
    monte_carlo = MonteCarloOptions(**{"rel_error": 0.5} | {k: v for k, v in options.items() if k in MONTE_CARLO})
    return EvaluateOptions(monte_carlo=monte_carlo, **{k: v for k, v in options.items() if k not in MONTE_CARLO})


def result(model, dataset, **options) -> dict:
    return returned(evaluate(model, dataset, options_of(**options))).to_dict()


def test_a_result_names_everything_needed_to_repeat_it(model, dataset):
    found = result(model, dataset, split="test")
    assert found["fingerprint"] == dataset.manifest.fingerprint
    assert (found["split"], found["seed"], found["length"]) == ("test", 0, 24)
    for protocol in ("rigorous", "sedd-paper"):
        metrics = found["bounds"][protocol]
        assert metrics["replicates"] >= 4
        assert metrics["perplexity"] == pytest.approx(math.exp(metrics["nats_per_token"]))
    assert set(found["baselines"]) == {"unigram", "5-gram", "5-gram, in one piece"}
    # blocks are read by themselves, as by the model: their first tokens are less certain than in one piece
    baselines = found["baselines"]
    assert baselines["5-gram, in one piece"] < baselines["5-gram"] < baselines["unigram"]


def test_the_same_seed_repeats_the_number_and_another_does_not(model, dataset):
    rates = [result(model, dataset, seed=s, baselines=False)["bounds"]["rigorous"]["nats_per_token"] for s in (0, 0, 1)]
    assert rates[0] == rates[1] != rates[2]


def test_the_batch_size_does_not_change_the_number(model, dataset, monkeypatch):
    from sedd_cli.evaluation.likelihood import estimator as module

    whole = result(model, dataset, baselines=False)["bounds"]["rigorous"]["nats_per_token"]
    monkeypatch.setitem(module.GROUP_TOKENS, "cpu", 24)
    # the same draws in other batches: equal up to float32 rounding
    assert result(model, dataset, baselines=False)["bounds"]["rigorous"]["nats_per_token"] == pytest.approx(
        whole, rel=1e-5
    )


def test_a_remainder_counts_where_the_protocol_keeps_it(model, dataset):
    bounds = result(model, dataset)["bounds"]
    tokens = dataset.split("test").tokens
    assert tokens % 24
    assert bounds["rigorous"]["tokens"] == tokens
    assert bounds["sedd-paper"]["tokens"] == tokens - tokens % 24


def test_more_precision_takes_more_draws_and_is_reached(model, dataset):
    loose = result(model, dataset, rel_error=0.5, baselines=False)["bounds"]["rigorous"]
    asked = 0.7 * loose["nats_per_token_error"] / loose["nats_per_token"]
    tight = result(model, dataset, rel_error=asked, baselines=False)["bounds"]["rigorous"]
    assert tight["replicates"] > loose["replicates"] == 8
    assert tight["nats_per_token_error"] <= asked * tight["nats_per_token"]


def test_the_error_bar_covers_the_scatter_between_seeds(model, dataset):
    found = [result(model, dataset, seed=s, baselines=False)["bounds"]["rigorous"] for s in range(12)]
    rates = torch.tensor([f["nats_per_token"] for f in found])
    claimed = torch.tensor([f["nats_per_token_error"] for f in found]).pow(2).mean().sqrt()
    # both are estimates from a dozen values: within a factor of 2
    assert 0.5 < float(rates.std() / claimed) < 2


def test_an_untrained_model_scores_log_n_per_token(model, dataset):
    with torch.no_grad():
        for p in model.net.output_layer.linear.parameters():
            p.zero_()
    # z = 0: every token has probability 1/N and the scores are normalised, whatever is masked
    found = result(model, dataset, baselines=False, max_nfe=32, rel_error=1e-4)["bounds"]["rigorous"]
    assert found["nats_per_token"] == pytest.approx(
        math.log(model.graph.vocab_size), abs=4 * found["nats_per_token_error"]
    )
    assert found["nats_per_token_error"] < 1e-3 * found["nats_per_token"]


def test_bound_of_single_sequences_agrees_with_their_mean(model, dataset):
    x0 = torch.from_numpy(dataset.split("test").read(0, 72)).view(3, 24)
    bound, error = model.bound(x0, draws=400)
    other, other_error = model.bound(x0, draws=400, seed=1)
    assert bound.shape == error.shape == (3,)
    # two independent estimates: within five of their joint standard errors
    assert ((bound - other).abs() < 5 * (error**2 + other_error**2).sqrt()).all()


def test_an_infinite_bound_has_no_error(model):
    with torch.no_grad():
        model.net.output_layer.linear.bias[3] = -math.inf
    bound, error = model.bound(torch.tensor([[3] * 8, [1] * 8]), draws=64)
    assert bound[0] == math.inf
    assert error[0] == 0
    assert bound[1].isfinite()
    assert error[1] > 0


def test_what_the_tokenizer_loses_is_said_once(model, workplace):
    """Whether the text is prepared by the same command, or was before."""
    from sedd_cli.system.events import Warn

    text = Text(str(workplace / "lossy.txt"))
    (workplace / "lossy.txt").write_text("\n".join(f"the cat sat on the mat {i}" for i in range(300)))
    lost = "the tokenizer x does not give back 1.0% of the characters"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sedd_cli.data.prepare.tokenizer_remarks", lambda *given: [Warn(lost)])
        for _ in range(2):
            events, _ = completed(evaluate_all(model, [text], options_of(baselines=False), ALONE))
            assert [e.text for e in events if isinstance(e, Warn)].count(lost) == 1


def test_another_tokenizer_is_refused(model):
    with pytest.raises(RequestError, match="another tokenizer"):
        result(model, _dataset(model.recipe.data.corpus, "byte"))


def test_an_unknown_split_or_protocol_names_those_there_are(model, dataset):
    with pytest.raises(RequestError, match="train, validation, test"):
        result(model, dataset, split="dev")
    with pytest.raises(RequestError, match="rigorous, sedd-paper, mdlm"):
        EvaluateOptions(protocols=("rigorus",))


def test_another_corpus_is_prepared_with_the_models_own_tokenizer(model, workplace):
    (workplace / "other.txt").write_text("\n".join(f"a hat ran over the mat {i}" for i in range(300)), encoding="utf-8")
    texts = [Text(str(workplace / "other.txt"))]
    (*_, last), results = completed(evaluate_all(model, texts, options_of(baselines=False), ALONE))
    assert last.result["corpus"] != model.recipe.data.corpus
    assert last.result["tokens"] > 24
    assert results.to_dict() == {"results": [last.result], "failed": []}


def test_a_split_shorter_than_a_block_is_an_error_under_the_papers_protocol(model, workplace):
    (workplace / "short.txt").write_text("\n".join(["the cat"] * 2), encoding="utf-8")
    options = options_of(split="train", protocols=("sedd-paper",))
    with pytest.raises(RequestError, match="16 tokens, fewer than one block of 24"):
        list(evaluate_all(model, [Text(str(workplace / "short.txt"))], options, ALONE))


@pytest.mark.parametrize("protocol", ["rigorous", "sedd-paper"])
def test_each_protocol_is_the_bound_of_its_name(model, protocol):
    from sedd_cli.core.bounds import paper_bound, rigorous_bound
    from sedd_cli.core.random import BOUND, Stream
    from sedd_cli.inference.bound import draw_bounds

    index, v = torch.arange(3), torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64)
    x0 = torch.randint(0, model.graph.vocab_size, (3, 24))
    u, u_end = Stream(7, BOUND, index).uniforms(2, 24)
    with torch.no_grad():
        truth = (
            rigorous_bound(model.score, x0, v, u, u_end)
            if protocol == "rigorous"
            else paper_bound(model.score, x0, v, u, placed=True)
        )
    found = draw_bounds(model.score, (protocol,), "stratified", x0, v, Stream(7, BOUND, index), 2)
    assert torch.equal(found[:, 0], truth.double())


def test_bound_of_an_untrained_model_is_l_log_n(model):
    with torch.no_grad():
        for p in model.net.output_layer.linear.parameters():
            p.zero_()
    bound, error = model.bound(torch.zeros(2, 24, dtype=torch.int64), draws=400)
    # four sets of draws give the error: Student's t with 3 degrees of freedom stays below 12.9 in 99.9 % of cases
    assert ((bound - 24 * math.log(model.graph.vocab_size)).abs() < 12.9 * error).all()
    assert (error < 0.01 * bound).all()


def test_bound_refuses_what_it_cannot_do(model):
    x0 = torch.zeros(1, 24, dtype=torch.int64)
    with pytest.raises(RequestError, match="rigorous, sedd-paper"):
        model.bound(x0, protocol="rigorus")
    with pytest.raises(RequestError, match="about blocks of a text"):
        model.bound(x0, protocol="mdlm")
    with pytest.raises(RequestError, match="longer than the model's 24"):
        model.bound(torch.zeros(1, 25, dtype=torch.int64))


def test_an_error_that_was_not_reached_gives_a_warning(model, dataset):
    from sedd_cli.system.events import Warn

    options = options_of(rel_error=1e-6, max_nfe=4, baselines=False)
    warnings = [e.text for e in evaluate(model, dataset, options) if isinstance(e, Warn)]
    assert len(warnings) == 2
    assert "--max-nfe" in warnings[0]


def two_corpora(workplace) -> list[Text]:
    for name in ("one", "two"):
        lines = [f"a hat ran over the mat {name} {i}" for i in range(200)]
        (workplace / f"{name}.txt").write_text("\n".join(lines), encoding="utf-8")
    return [Text(str(workplace / f"{name}.txt")) for name in ("one", "two")]


def test_a_corpus_that_fails_leaves_the_others_their_results(model, workplace):
    one, two = two_corpora(workplace)
    texts = [one, Text("nowhere.txt"), two]
    events, found = completed(evaluate_all(model, texts, options_of(baselines=False), ALONE))
    assert [e.result["corpus"] for e in events if isinstance(e, Evaluated)] == [r.text.corpus for r in found.results]
    assert len(found.results) == 2
    (failed,) = found.failed
    assert failed.dataset == "nowhere.txt"
    assert failed.code == 2
    with pytest.raises(RequestError, match=r"nowhere\.txt"):
        list(evaluate_all(model, [Text("nowhere.txt")], options_of(), ALONE))


def test_the_mdlm_protocol_wraps_blocks_and_counts_the_marks(model, dataset):
    found = result(model, dataset, protocols=("mdlm",), baselines=False)["bounds"]["mdlm"]
    whole = dataset.split("test").tokens // 22
    assert (found["blocks"], found["tokens"]) == (whole, 24 * whole)
    scored = dataset.split("test").read(0, 22 * whole)
    assert found["characters"] == int((scored != dataset.tokenizer.eos).sum())  # of a tokenizer of characters


@pytest.mark.parametrize("estimator", ["iid", "stratified", "count"])
@pytest.mark.parametrize("protocol", ["rigorous", "sedd-paper"])
def test_every_estimator_measures_the_same(model, dataset, protocol, estimator):
    options = {"protocols": (protocol,), "baselines": False, "max_nfe": 40, "rel_error": 1e-6}
    best = result(model, dataset, **options, seed=5)["bounds"][protocol]
    found = result(model, dataset, **options, estimator=estimator)
    assert found["estimator"] == estimator
    found = found["bounds"][protocol]
    error = math.hypot(best["nats_per_token_error"], found["nats_per_token_error"])
    # 40 replicates each: four standard errors of their difference
    assert abs(best["nats_per_token"] - found["nats_per_token"]) < 4 * error
    assert found["nats_per_token_error"] > (1.5 if estimator == "iid" else 0.5) * best["nats_per_token_error"]


def test_the_interval_is_students(model, dataset):
    found = result(model, dataset, baselines=False)["bounds"]["rigorous"]
    low, high = (math.log(side) for side in found["perplexity_interval"])
    assert (found["replicates"], found["interval_level"]) == (8, 0.95)
    # the 97.5 % quantile with 7 degrees of freedom, from a table
    assert (high - low) / 2 == pytest.approx(2.3646 * found["nats_per_token_error"], rel=1e-4)


def test_a_short_text_gets_more_draws_a_block(model, dataset):
    found = result(model, dataset, blocks=2, max_nfe=256, baselines=False)["bounds"]["rigorous"]
    assert (found["blocks"], found["replicates"], found["nfe_per_block"]) == (2, 8, 256)
    with pytest.raises(RequestError, match="max-nfe must be at least 4"):
        MonteCarloOptions(max_nfe=3)


def test_shorter_blocks_on_request(model, dataset):
    found = result(model, dataset, length=12, baselines=False)
    assert found["length"] == 12
    assert found["bounds"]["sedd-paper"]["tokens"] == 12 * found["bounds"]["sedd-paper"]["blocks"]
    with pytest.raises(RequestError, match="model's 24, found 25"):
        result(model, dataset, length=25)


def test_an_estimator_without_a_count_form_is_refused():
    from sedd_cli.core.graphs import GRAPHS

    assert MonteCarloOptions().estimator_for(GRAPHS["uniform"](vocab_size=5)) == "stratified"
    with pytest.raises(RequestError, match="use stratified"):
        MonteCarloOptions(estimator="count").estimator_for(GRAPHS["uniform"](vocab_size=5))
    with pytest.raises(RequestError, match="iid, stratified, count"):
        MonteCarloOptions(estimator="sobol")


class StopError(Exception):
    """Stands for a kill."""


def test_an_interrupted_evaluation_resumes_and_ends_in_the_same_number(model, dataset, monkeypatch):
    from sedd_cli.evaluation.likelihood import estimator as module

    monkeypatch.setitem(module.GROUP_TOKENS, "cpu", 48)  # many groups a replicate
    options = {"protocols": ("rigorous",), "baselines": False, "seed": 77}
    undisturbed = result(model, dataset, **options)["bounds"]["rigorous"]
    real, calls = module.draw_bounds, []

    def counting(*words, **options):
        calls.append(words[3])
        if stop_at and len(calls) == stop_at:
            raise StopError
        return real(*words, **options)

    monkeypatch.setattr(module, "draw_bounds", counting)
    stop_at = 3 * len(module.Blocks.cut(dataset.split("test"), "rigorous", 24, None).groups(48)) // 2
    with pytest.raises(StopError):
        result(model, dataset, **options, keep=True)
    first, stop_at = len(calls), 0
    calls.clear()
    again = result(model, dataset, **options, keep=True)["bounds"]["rigorous"]
    assert again == undisturbed
    groups = 8 * len(module.Blocks.cut(dataset.split("test"), "rigorous", 24, None).groups(48))
    assert len(calls) == groups - (first - 1)  # the one that was interrupted is drawn again, no other
    calls.clear()
    assert result(model, dataset, **options, keep=True)["bounds"]["rigorous"] == undisturbed
    assert not calls


def test_kept_draws_of_other_weights_are_not_taken(model, dataset, tiny_run):
    options = {"protocols": ("rigorous",), "baselines": False, "seed": 78, "keep": True}
    before = result(model, dataset, **options)["bounds"]["rigorous"]["nats_per_token"]
    other = load_model(tiny_run, device="cpu")
    with torch.no_grad():
        other.net.output_layer.linear.bias[3] += 1
    assert result(other, dataset, **options)["bounds"]["rigorous"]["nats_per_token"] != before
    assert result(model, dataset, **options)["bounds"]["rigorous"]["nats_per_token"] == before


def test_kept_draws_of_another_budget_are_not_mixed_in(model, dataset):
    options = {"protocols": ("rigorous",), "baselines": False, "seed": 80, "blocks": 2}
    small, large = (result(model, dataset, **options, max_nfe=n)["bounds"]["rigorous"] for n in (32, 256))
    assert (small["nfe_per_block"], large["nfe_per_block"]) == (32, 256)
    for n, expected in ((32, small), (256, large), (32, small)):
        assert result(model, dataset, **options, max_nfe=n, keep=True)["bounds"]["rigorous"] == expected


def test_a_torn_record_is_drawn_again(model, dataset):
    from sedd_cli.evaluation.likelihood.cache import ResultCache
    from sedd_cli.system.home import home

    options = {"protocols": ("rigorous",), "baselines": False, "seed": 79, "keep": True}
    found = result(model, dataset, **options)["bounds"]["rigorous"]
    for file in (home() / "evaluations").glob("*/0.npy"):
        file.write_bytes(file.read_bytes()[:50])
    assert result(model, dataset, **options)["bounds"]["rigorous"] == found
    assert math.isnan(ResultCache(home() / "evaluations" / "none").read(0, (3,))[0])


def test_bf16_is_used_only_where_it_is_seen_not_to_matter(model, dataset, monkeypatch):
    from sedd_cli.checkpoints import loaded_model as module
    from sedd_cli.evaluation.likelihood import estimator, precision

    monkeypatch.setattr(module, "autocast_dtype", lambda name, device: torch.bfloat16)  # as if it were native
    options = {"protocols": ("rigorous",), "baselines": False, "try_bf16": True}
    loose = result(model, dataset, **options, rel_error=0.5)
    assert loose["precision"] == "bf16"
    measured = loose["bf16"]
    assert abs(measured["moves_nats_per_token"]) + 2 * measured["error"] < measured["allowed"]
    # of two blocks the error is hardly known: Student's t asks for 12.7 of them, not two
    few = result(model, dataset, **options, rel_error=0.5, blocks=2)["bf16"]
    wanted = abs(few["moves_nats_per_token"]) + 4 * few["error"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(precision, "ALLOWED_SHARE", precision.ALLOWED_SHARE * wanted / few["allowed"])
        held = result(model, dataset, **options, rel_error=0.5, blocks=2)
    assert abs(held["bf16"]["moves_nats_per_token"]) + 2 * held["bf16"]["error"] < held["bf16"]["allowed"]
    assert held["precision"] == "fp32"
    strict = result(model, dataset, **options, rel_error=1e-7, max_nfe=8)
    assert strict["precision"] == "fp32"
    assert strict["bf16"]["moves_nats_per_token"] == measured["moves_nats_per_token"] != 0
    assert model.precision == "fp32"
    # the trial is of the same draws in groups of any size
    sizes, real = [], precision.draw_bounds
    monkeypatch.setattr(precision, "draw_bounds", lambda *given: (sizes.append(len(given[3])), real(*given))[1])
    monkeypatch.setitem(estimator.GROUP_TOKENS, "cpu", 3 * model.net.config.length)
    again = result(model, dataset, **options, rel_error=0.5)["bf16"]
    assert max(sizes) == 3
    assert again == pytest.approx(measured, rel=1e-3, abs=1e-7)


def test_a_causal_model_is_evaluated_exactly_on_the_same_blocks(model, dataset, tmp_path):
    from support.causal_models import save_tiny_causal

    from sedd_cli.evaluation.scorers.pretrained import load_exact

    reference = load_exact(str(save_tiny_causal(tmp_path / "causal", n_positions=24)), device="cpu")
    options = options_of(protocols=("sedd-paper", "mdlm"))
    events, results = completed(evaluate_all(reference, [Text(model.recipe.data.corpus)], options, ALONE))
    (found,) = results.to_dict()["results"]
    own = next(e for e in events if isinstance(e, Evaluated)).result
    assert own == found
    assert "estimator" not in found
    split = open_dataset_of(model.recipe.data.corpus, reference).split("test")
    blocks = torch.from_numpy(split.read(0, split.tokens // 24 * 24)).view(-1, 24)
    start = torch.full_like(blocks[:, :1], reference.start)
    logits = reference.net(torch.cat([start, blocks[:, :-1]], 1)).logits.double().log_softmax(-1)
    expected = -logits.gather(-1, blocks[..., None]).mean()
    assert found["bounds"]["sedd-paper"]["nats_per_token"] == pytest.approx(float(expected), rel=1e-6)
    assert found["bounds"]["sedd-paper"]["nats_per_token_error"] == 0
    # between marks the first of them is given: of 24 ids 23 are predicted
    assert found["bounds"]["mdlm"]["tokens"] == 23 * found["bounds"]["mdlm"]["blocks"]


def open_dataset_of(corpus, model):
    made = returned(prepare(PrepareOptions(corpus=corpus, tokenizer=model.tokenizer_source)))
    return open_dataset(made.folder)


def test_a_synthetic_source_shows_the_gap(workplace):
    from sedd_cli.data.corpora import CORPORA
    from sedd_cli.evaluation.baselines.baselines import source_bits

    data = _dataset("markov", "text8")
    source = CORPORA["markov"].process
    blocks = Blocks.cut(data.split("test"), "rigorous", 64, data.tokenizer)
    found = source_bits(data, blocks)
    # about the entropy of 64 characters in a row: 1563 blocks of a source whose blocks scatter by a tenth of it
    assert found == pytest.approx(source.block_entropy(64) / 64 / math.log(2), rel=0.01)
    assert found > source.entropy_rate() / math.log(2)


def test_the_source_is_known_in_tokens_with_separators_too(workplace):
    from sedd_cli.evaluation.baselines.baselines import source_bits

    bits = []
    for tokenizer in ("text8", "byte"):  # only the second puts a separator at the end
        data = _dataset("markov", tokenizer)
        bits.append(source_bits(data, Blocks.cut(data.split("test"), "rigorous", 64, data.tokenizer)))
    assert bits[0] == pytest.approx(bits[1], rel=1e-12)


def test_the_fingerprint_tells_apart_what_scores_differently(model):
    from dataclasses import replace

    before = model.fingerprint
    assert replace(model).fingerprint == before
    other = replace(model)
    other.net.config = replace(model.net.config, n_heads=1)  # no weight has another shape
    assert replace(other).fingerprint != before


def test_a_likelihood_that_is_not_finite_is_an_error(model, dataset):
    from sedd_cli.errors import WorkError

    with torch.no_grad():
        model.net.output_layer.linear.bias[3] = math.nan
    with pytest.raises(WorkError, match="no finite likelihood"):
        result(model, dataset, baselines=False)


def test_an_evaluation_that_cannot_cache_its_draws_continues_with_a_warning(model, dataset, monkeypatch, tmp_path):
    from sedd_cli.evaluation.likelihood import cache
    from sedd_cli.system.events import Warn

    (tmp_path / "evaluations").write_text("a file in the way")
    monkeypatch.setattr(cache, "home", lambda: tmp_path)
    options = options_of(protocols=("rigorous",), baselines=False, keep=True)
    events, result = completed(evaluate(model, dataset, options))
    assert result.bounds["rigorous"].replicates == 8
    (warning,) = (e.text for e in events if isinstance(e, Warn))
    assert "could not be cached" in warning
    assert "--no-resume" in warning


def test_an_interrupted_exact_evaluation_resumes(workplace, model, tmp_path, monkeypatch):
    from support.causal_models import save_tiny_causal

    from sedd_cli.evaluation.likelihood import estimator as module
    from sedd_cli.evaluation.scorers.causal import CausalModel
    from sedd_cli.evaluation.scorers.pretrained import load_exact

    monkeypatch.setitem(module.GROUP_TOKENS, "cpu", 240)
    reference = load_exact(str(save_tiny_causal(tmp_path / "causal", n_positions=24, seed=5)), device="cpu")
    data = open_dataset_of(model.recipe.data.corpus, reference)
    real, calls, stop_at = CausalModel.nats, [], 5

    def counting(self, tokens):
        calls.append(len(tokens))
        if len(calls) == stop_at:
            raise StopError
        return real(self, tokens)

    monkeypatch.setattr(CausalModel, "nats", counting)
    with pytest.raises(StopError):
        result(reference, data, baselines=False, keep=True)
    stop_at = 0
    calls.clear()
    found = result(reference, data, baselines=False, keep=True)["bounds"]["sedd-paper"]
    assert sum(calls) == found["blocks"] - 4 * 10
    assert found == result(reference, data, baselines=False)["bounds"]["sedd-paper"]


def test_errors_of_the_text_are_per_predicted_token(model, tmp_path):
    from support.causal_models import save_tiny_causal

    from sedd_cli.evaluation.scorers.pretrained import load_exact

    reference = load_exact(str(save_tiny_causal(tmp_path / "causal", n_positions=24)), device="cpu")
    split = open_dataset_of(model.recipe.data.corpus, reference).split("test")
    blocks = Blocks.cut(split, "mdlm", 24, reference.tokenizer)
    nats = torch.rand(1, len(blocks), generator=torch.Generator().manual_seed(0)).double().numpy() + 50
    found = summary(blocks, Estimates(nats, 1), "mdlm", given=1)
    expected = between_documents(nats, blocks.lengths - 1, blocks.clusters)
    assert found.nats_per_token_between_documents == expected
    assert found.nats_per_token == pytest.approx(nats.sum() / (23 * len(blocks)))
    by_character = between_documents(nats, blocks.characters, blocks.clusters)
    decoded = blocks.characters.sum() / blocks.size.characters
    assert found.between_documents_error == pytest.approx(by_character / math.log(2) * decoded)


def test_equal_nats_of_every_token_differ_by_character(tmp_path):
    """Lines of short and of long tokens: no text is easier by token, and some are by character."""
    text = tmp_path / "two.txt"
    text.write_text("\n".join(["a b c d e f g h", "return return return return"] * 40), encoding="utf-8")
    dataset = completed(prepare(PrepareOptions(corpus=str(text), tokenizer="bpe:300", documents="line")))[1]
    opened = open_dataset(dataset.folder)
    blocks = Blocks.cut(opened.split("train"), "rigorous", 4, opened.tokenizer)
    assert blocks.characters.sum() == blocks.size.characters
    found = summary(blocks, Estimates(blocks.lengths[None].astype(float), 1), "rigorous")
    assert found.nats_per_token_between_documents == pytest.approx(0, abs=1e-9)
    assert found.between_documents_error > 0.01


def test_bits_per_character_of_a_part_are_over_the_characters_of_that_part(model, tmp_path):
    """One short document a line first, one long document last: the first blocks hold far more separators."""
    text, tokenizer = tmp_path / "uneven.txt", model.tokenizer
    lines = [*["cat", "dog"] * 300, *[" ".join(["the cat sat on the mat"] * 20)] * 20]
    text.write_text("\n".join(lines), encoding="utf-8")
    tokenizer.save(tmp_path / "tokenizer")
    made = returned(prepare(PrepareOptions(corpus=str(text), tokenizer=str(tmp_path / "tokenizer"), documents="line")))
    data = open_dataset(made.folder)
    found, split = result(model, data, split="train", blocks=5, baselines=False), data.split("train")
    characters = int((split.read(0, 5 * 24) != tokenizer.eos).sum())
    assert characters / 120 < 0.8 < 0.9 < split.characters / split.tokens
    bound = found["bounds"]["rigorous"]
    assert (bound["tokens"], bound["characters"]) == (120, characters)
    assert bound["bits_per_char"] == pytest.approx(bound["nats_per_token"] * 120 / characters / math.log(2))


def test_baselines_and_bits_per_byte_of_a_part_are_over_the_text_of_that_part(model, tmp_path):
    from sedd_cli.evaluation.baselines.baselines import ngrams
    from sedd_cli.evaluation.baselines.ngram import NGram

    text = tmp_path / "accents.txt"
    lines = [f"é ü ñ {i}" if i < 400 else f"the cat sat on the mat and the dog on the hill {i}" for i in range(600)]
    text.write_text("\n".join(lines), encoding="utf-8")
    made = returned(prepare(PrepareOptions(corpus=str(text), tokenizer="byte", documents="line")))
    data = open_dataset(made.folder)
    split, train = data.split("test"), data.split("train")
    blocks = Blocks.cut(split, "rigorous", 24, data.tokenizer, 3)
    ids = split.read(0, 72)
    # a character that is cut at the end counts as U+FFFD, of three bytes
    assert abs(blocks.size.bytes - int((ids != data.tokenizer.eos).sum())) <= 2
    assert blocks.size.bytes > blocks.size.characters
    nats = NGram(train.read(0, train.tokens), data.tokenizer.vocab_size, 1).nats(ids).sum()
    found, bits = ngrams(data, blocks), 1 / blocks.size.characters / math.log(2)
    assert found["unigram"] == pytest.approx(float(nats) * bits)
    five = NGram(train.read(0, train.tokens), data.tokenizer.vocab_size, 5)
    alone = sum(float(five.nats(ids[start : start + 24]).sum()) for start in (0, 24, 48))
    assert found["5-gram"] == pytest.approx(alone * bits)
    assert found["5-gram, in one piece"] == pytest.approx(float(five.nats(ids).sum()) * bits)
    metrics = summary(blocks, Estimates(np.full((4, 3), 50.0), 1), "rigorous").to_dict()
    assert metrics["bits_per_byte"] == pytest.approx(150 / blocks.size.bytes / math.log(2))
    assert metrics["bits_per_char"] == pytest.approx(150 / blocks.size.characters / math.log(2))


def test_both_bounds_come_from_the_same_evaluations(model, dataset):

    both = result(model, dataset, baselines=False)["bounds"]
    assert both["rigorous"]["same_draws_as"] == ["sedd-paper"]
    alone = result(model, dataset, baselines=False, protocols=("rigorous",))["bounds"]["rigorous"]
    assert alone | {"same_draws_as": ["sedd-paper"]} == both["rigorous"]
    # with other draws the other bound is the same within the error of both: 4 standard errors
    paper = result(model, dataset, baselines=False, protocols=("sedd-paper",), seed=3)["bounds"]["sedd-paper"]
    error = math.hypot(paper["nats_per_token_error"], both["sedd-paper"]["nats_per_token_error"])
    assert abs(paper["nats_per_token"] - both["sedd-paper"]["nats_per_token"]) < 4 * error
    assert paper["tokens"] == both["sedd-paper"]["tokens"] < both["rigorous"]["tokens"]
    assert shared("stratified", both) == ()
    assert shared("count", ("rigorous", "mdlm")) == ()


def test_a_causal_model_is_evaluated_with_the_tokenizer_it_is_given(model, tmp_path):
    from support.causal_models import save_tiny_causal

    from sedd_cli.evaluation.scorers.pretrained import load_exact

    folder = save_tiny_causal(tmp_path / "causal", n_positions=24)
    file = (folder / "tokenizer.json").rename(tmp_path / "tokenizer.json")
    (folder / "tokenizer_config.json").unlink()
    reference = load_exact(str(folder), device="cpu", tokenizer=str(file))
    texts = [Text(model.recipe.data.corpus)]
    found = returned(evaluate_all(reference, texts, options_of(baselines=False), ALONE))
    assert found.results[0].bounds["sedd-paper"].blocks > 100


def test_the_bound_of_the_sampler_is_named_with_its_steps_and_counts_their_evaluations(model, dataset):
    options = {"protocols": ("sampler",), "blocks": 3, "baselines": False}
    found = {n: result(model, dataset, sampling=Sampling(steps=n), **options)["bounds"]["sampler"] for n in (2, 32)}
    assert found[2]["process"] == "tweedie in 2 steps"
    assert (found[2]["sign"], found[2]["upper_bound"]) == ("≤", True)
    assert found[2]["estimator"] == "paths"
    assert found[2]["nfe_per_block"] == 3 * found[2]["replicates"]
    assert found[32]["replicates"] == 4  # 33 evaluations each, of 64 at most
    assert all(one["tokens"] == 72 for one in found.values())
    named = result(model, dataset, sampling=Sampling(steps=2, normalized=True, temperature=0.9), **options)
    assert named["bounds"]["sampler"]["process"] == "tweedie in 2 steps, temperature 0.9, normalized True"


def test_the_bound_of_the_sampler_refuses_what_has_none(model, dataset):
    for sampling, message in (
        (Sampling(sampler="first-hitting"), "samplers with steps"),
        (Sampling(legacy=True), "exact draws"),
        (Sampling(top_p=0.9), "not for --top-p"),
        (Sampling(last_step="greedy"), "not for --last-step greedy"),
    ):
        with pytest.raises(RequestError, match=message):
            result(model, dataset, protocols=("sampler",), sampling=sampling)
    with pytest.raises(RequestError, match="--protocol sampler alone"):
        EvaluateOptions(sampling=Sampling(steps=3))
    with pytest.raises(RequestError, match="sedd eval"):
        model.bound(torch.zeros(1, 24, dtype=torch.int64), protocol="sampler")
