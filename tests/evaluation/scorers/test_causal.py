"""Causal language models: likelihoods sum to one, continuations follow them, features are those of mauve-text."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest
import torch
from support.causal_models import make_tiny_net, save_tiny_causal

from sedd_cli.core.categorical import nucleus
from sedd_cli.errors import RequestError
from sedd_cli.evaluation.scorers import network, pretrained
from sedd_cli.evaluation.scorers.causal import CausalModel
from sedd_cli.evaluation.scorers.continuation import continue_prompts
from sedd_cli.evaluation.scorers.pretrained import is_causal, load_causal

#: Float32 logits of batches of other shapes differ in the last bits; nats here are sums of at most forty.
ROUNDING = 2e-4


@pytest.fixture(scope="session")
def tiny_causal(tmp_path_factory):
    return save_tiny_causal(tmp_path_factory.mktemp("models") / "causal")


@pytest.fixture(scope="module")
def model(tiny_causal) -> CausalModel:
    return load_causal(tiny_causal, "cpu")


@pytest.fixture(scope="module")
def small() -> CausalModel:
    """Five tokens, the last of which ends a text."""
    return CausalModel(make_tiny_net(3, vocab_size=5, bos_token_id=4, eos_token_id=4), None, "small")


@pytest.fixture(scope="module")
def tokens(model) -> torch.Tensor:
    return torch.randint(model.vocab_size, (7, 40), generator=torch.Generator().manual_seed(0))


def by_hand(model: CausalModel, ids: torch.Tensor, first: int) -> torch.Tensor:
    """−Σ log p of ids [B, L] from position `first` on, from all logits at once."""
    with torch.no_grad():
        logp = model.net(ids).logits.double().log_softmax(-1)
    picked = logp[:, :-1].gather(-1, ids[:, 1:, None])[..., 0]
    return -picked[:, first - 1 :].sum(1)


def all_rows(states: int, length: int) -> torch.Tensor:
    return torch.tensor(list(itertools.product(range(states), repeat=length)))


def chi_square(drawn: torch.Tensor, p: torch.Tensor) -> float:
    """p-value of draws [n] against p [V], none of them where p is 0."""
    from scipy.stats import chisquare

    count = torch.bincount(drawn, minlength=len(p)).double()
    assert not bool(count[p == 0].any())
    kept = p > 0
    return float(chisquare(count[kept].numpy(), (p[kept] / p.sum() * len(drawn)).numpy()).pvalue)


def test_nats_are_the_log_softmax_summed(model, tokens):
    start = torch.full((len(tokens), 1), model.start)
    assert model.network.headed
    assert model.nats(tokens).dtype == torch.float64
    torch.testing.assert_close(
        model.nats(tokens), by_hand(model, torch.cat([start, tokens], 1), 1), rtol=0, atol=ROUNDING
    )
    torch.testing.assert_close(model.nats_given_first(tokens), by_hand(model, tokens, 1), rtol=0, atol=ROUNDING)


def test_the_head_over_the_base_model_gives_the_models_logits(model, tokens):
    with torch.no_grad():
        assert torch.equal(torch.cat(list(model.network.logits(tokens))).view(7, 40, -1), model.net(tokens).logits)


def test_the_probabilities_sum_to_one(small):
    """−log p of all 25 sequences of two tokens, and of all 5 second tokens behind each first one."""
    rows = all_rows(5, 2)
    assert torch.exp(-small.nats(rows)).sum().item() == pytest.approx(1, abs=1e-6)
    given_first = torch.exp(-small.nats_given_first(rows)).view(5, 5).sum(1)
    torch.testing.assert_close(given_first, torch.ones(5, dtype=torch.float64), rtol=0, atol=1e-6)


def test_nats_do_not_depend_on_the_batch_or_on_the_blocks(model, tokens, monkeypatch):
    whole = model.nats(tokens)
    one_by_one = torch.cat([model.nats(row[None]) for row in tokens])
    torch.testing.assert_close(one_by_one, whole, rtol=0, atol=ROUNDING)
    monkeypatch.setattr(network, "ROW_BLOCK", 3 * model.vocab_size)
    monkeypatch.setattr(network, "TOKENS_AT_ONCE", 100)
    torch.testing.assert_close(model.nats(tokens), whole, rtol=0, atol=ROUNDING)
    assert model.nats(tokens[:, :0]).tolist() == model.nats_given_first(tokens[:, :1]).tolist() == [0.0] * 7


def test_logits_that_are_capped_behind_the_head_are_taken_from_the_model(tokens, monkeypatch):
    from transformers import Gemma2Config, Gemma2ForCausalLM

    shape = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1}
    torch.manual_seed(0)
    config = Gemma2Config(vocab_size=300, intermediate_size=16, head_dim=8, final_logit_softcapping=0.05, **shape)
    capped = CausalModel(Gemma2ForCausalLM(config).eval(), None, "capped")
    monkeypatch.setattr(network, "ROW_BLOCK", 50 * 300)
    assert not capped.network.headed
    torch.testing.assert_close(capped.nats_given_first(tokens), by_hand(capped, tokens, 1), rtol=0, atol=ROUNDING)
    made = continue_prompts(capped, tokens[:2, :4], 5, 1.0, 1.0, 0, torch.arange(2))
    assert made.tolist() == recomputed(capped, tokens[:2, :4], 5, 1.0, 1.0, 0, torch.arange(2)).tolist()


def test_first_tokens_follow_the_softmax(small):
    n = 20_000
    drawn = continue_prompts(small, torch.tensor([[1, 2]]).expand(n, 2), 1, 1.0, 1.0, 0, torch.arange(n))
    p = small.net(torch.tensor([[1, 2]])).logits[0, -1].detach().double()
    p[4] = -torch.inf  # end-of-text is never drawn
    assert chi_square(drawn[:, 0], p.softmax(-1)) > 0.01
    warm = continue_prompts(small, torch.tensor([[1, 2]]).expand(n, 2), 1, 1.0, 1.5, 1, torch.arange(n))
    assert chi_square(warm[:, 0], (p / 1.5).softmax(-1)) > 0.01
    assert chi_square(warm[:, 0], p.softmax(-1)) < 1e-6


def test_second_tokens_follow_their_distribution_given_the_first(small):
    """Pairs behind `start` against exp(−nats), given that neither ends the text."""
    n, rows = 20_000, all_rows(5, 2)
    drawn = continue_prompts(small, torch.empty(n, 0, dtype=torch.int64), 2, 1.0, 1.0, 0, torch.arange(n))
    p = torch.exp(-small.nats(rows)).view(5, 5)
    first = p.sum(1)
    first[4] = p[:, 4] = 0
    p = first[:, None] / first.sum() * p / p.sum(1, keepdim=True)
    assert chi_square(drawn[:, 0] * 5 + drawn[:, 1], p.view(-1)) > 0.01


def test_the_nucleus_is_the_smallest_set_that_holds_top_p():
    p = torch.tensor([[0.1, 0.4, 0.2, 0.3], [0.25, 0.25, 0.25, 0.25], [0.97, 0.01, 0.01, 0.01]], dtype=torch.float64)
    kept = [(nucleus(p, top) > 0).int().tolist() for top in (0.5, 0.75, 0.95)]
    assert kept[0] == [[0, 1, 0, 1], [1, 1, 0, 0], [1, 0, 0, 0]]
    assert kept[1] == [[0, 1, 1, 1], [1, 1, 1, 0], [1, 0, 0, 0]]
    assert kept[2] == [[1, 1, 1, 1], [1, 1, 1, 1], [1, 0, 0, 0]]
    assert torch.equal(nucleus(p, 1), p)
    assert nucleus(p, 0.5)[0].tolist() == [0, 0.4, 0, 0.3]


def test_draws_stay_in_the_nucleus_and_fill_it(model):
    prompt, n = torch.tensor([[5, 77, 200]]), 5_000
    p = model.net(prompt).logits[0, -1].detach().double()
    p[model.start] = -torch.inf
    within = nucleus(p.softmax(-1)[None], 0.6)[0]
    assert 1 < int((within > 0).sum()) < 60
    drawn = continue_prompts(model, prompt.expand(n, 3), 1, 0.6, 1.0, 0, torch.arange(n))[:, 0]
    assert bool((within[drawn] > 0).all())
    assert chi_square(drawn, within) > 0.01


def recomputed(model, prompts, new, top_p, temperature, seed, numbers) -> torch.Tensor:
    """The continuation without a cache."""
    from sedd_cli.core.categorical import inverse_cdf
    from sedd_cli.core.random import SAMPLER, Stream

    x, stream = prompts, Stream(seed, SAMPLER, numbers)
    for k in range(new):
        logits = model.net(x).logits[:, -1].detach().double() / temperature
        logits[:, model.ends] = -torch.inf
        x = torch.cat([x, inverse_cdf(nucleus(logits.softmax(-1), top_p), stream.uniform(k))[:, None]], 1)
    return x[:, prompts.shape[1] :]


def test_continuations_with_the_cache_are_those_computed_from_scratch(model, tokens):
    wanted = recomputed(model, tokens[:, :9], 30, 0.9, 0.8, 5, torch.arange(7))
    assert continue_prompts(model, tokens[:, :9], 30, 0.9, 0.8, 5, torch.arange(7)).tolist() == wanted.tolist()


def test_a_continuation_depends_on_seed_and_number_alone(model, tokens):
    prompts = tokens[:1, :6].expand(7, 6)
    made = continue_prompts(model, prompts, 20, 0.95, 1.0, 2, torch.arange(7))
    assert (
        continue_prompts(model, prompts[:2], 20, 0.95, 1.0, 2, torch.tensor([5, 3])).tolist() == made[[5, 3]].tolist()
    )
    assert len({tuple(row) for row in made.tolist()}) == 7
    assert continue_prompts(model, prompts, 20, 0.95, 1.0, 3, torch.arange(7)).tolist() != made.tolist()
    assert not bool((made == model.start).any())


def test_features_are_those_of_mauve_text(model, tiny_causal):
    from mauve.utils import featurize_tokens_from_model
    from transformers import AutoModel

    rows = [[1, 2, 3], [7] * 30, [9], list(range(100)), [4, 5]]
    theirs = featurize_tokens_from_model(
        AutoModel.from_pretrained(tiny_causal).eval(), [torch.tensor([row]) for row in rows], batch_size=2
    )
    ours = model.features(rows, 2)
    assert ours.dtype == np.float32
    assert np.array_equal(ours, theirs.numpy())
    np.testing.assert_allclose(model.features(rows, 5), ours, rtol=0, atol=1e-5)  # padding changes rounding alone


def test_a_fingerprint_tells_weights_apart(tiny_causal, tmp_path, model):
    assert load_causal(tiny_causal, "cpu").fingerprint == model.fingerprint
    assert load_causal(save_tiny_causal(tmp_path, seed=1), "cpu").fingerprint != model.fingerprint


def test_bf16_casts_the_weights_and_keeps_the_softmax(tiny_causal, model, tokens):
    low = load_causal(tiny_causal, "cpu", "bf16")
    assert next(low.net.parameters()).dtype == torch.bfloat16
    assert "bfloat16" in low.describe()
    found, exact = low.nats(tokens), model.nats(tokens)
    assert found.dtype == torch.float64
    # eight bits of logits of size ten: a few hundredths a token
    torch.testing.assert_close(found, exact, rtol=0.02, atol=0)
    assert not torch.equal(found, exact)


def test_decoding_gives_the_encoded_texts_back(model):
    texts = ["the cat, 12 dogs.", "naïve"]
    assert [model.decode(ids) for ids in model.encode(texts)] == texts
    assert model.encode([]) == []
    assert model.ends == [model.start] == [256]


def continued(model, given=1, new=1, top_p=1.0, temperature=1.0) -> torch.Tensor:
    return continue_prompts(
        model, torch.zeros(1, given, dtype=torch.int64), new, top_p, temperature, 0, torch.arange(1)
    )


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda m: m.nats(torch.zeros(1, 129, dtype=torch.int64)), ["129", "128"]),
        (lambda m: m.nats(torch.zeros(3, dtype=torch.int64)), ["int64 [B, L]"]),
        (lambda m: m.nats(torch.full((1, 2), 257)), ["[0, 257)"]),
        (lambda m: continued(m, given=120, new=10), ["120", "10", "128"]),
        (lambda m: continued(m, top_p=0.0), ["top-p"]),
        (lambda m: continued(m, temperature=0.0), ["temperature"]),
        (lambda m: m.features([[1], []], 2), ["1 of 2"]),
    ],
)  # fmt: skip
def test_a_wrong_request_is_refused_with_the_reason(model, call, words):
    with pytest.raises(RequestError) as refused:
        call(model)
    assert all(word in str(refused.value) for word in words)


def test_the_last_token_of_the_context_is_predicted(model):
    assert model.nats(torch.zeros(1, 128, dtype=torch.int64)).item() > 0
    assert continued(model, given=120, new=9).shape == (1, 9)


def test_without_special_tokens_there_is_no_start(tokens):
    bare = CausalModel(make_tiny_net(vocab_size=300, bos_token_id=None, eos_token_id=None), None, "bare")
    with pytest.raises(RequestError, match="neither a begin-of-text nor an end-of-text"):
        bare.nats(tokens)
    assert bare.nats_given_first(tokens).isfinite().all()
    with pytest.raises(RequestError, match=r"tokenizer\.json"):
        bare.encode(["a"])
    # GPT-2's own ids, which a configuration has by default, are none of a small vocabulary
    assert CausalModel(make_tiny_net(vocab_size=300), None, "bare").ends == []


def test_a_folder_without_tokenizer_serves_ids_alone(tmp_path):
    from transformers.utils import logging

    logging.disable_progress_bar()
    make_tiny_net(vocab_size=5, bos_token_id=4, eos_token_id=4).save_pretrained(tmp_path)
    bare = load_causal(tmp_path, "cpu")
    assert bare.pretrained_tokenizer is None
    assert bare.start == 4


def test_what_cannot_be_fetched_is_refused_in_one_line():
    with pytest.raises(RequestError, match=r"cannot fetch nobody/nothing .*pass their folder") as refused:
        load_causal("nobody/nothing", "cpu")
    assert "\n" not in str(refused.value)


def test_a_folder_that_is_no_whole_causal_model_is_refused(tmp_path, tiny_causal):
    with pytest.raises(RequestError, match="no causal language model of transformers"):
        load_causal(tmp_path, "cpu")
    from safetensors.torch import load_file, save_file
    from transformers import BertConfig, BertLMHeadModel

    lacking = save_tiny_causal(tmp_path / "lacking")
    tensors = load_file(lacking / "model.safetensors")
    tensors.pop("transformer.h.1.mlp.c_fc.weight")
    save_file(tensors, lacking / "model.safetensors", {"format": "pt"})
    with pytest.raises(RequestError, match=r"lack transformer\.h\.1\.mlp\.c_fc\.weight"):
        load_causal(lacking, "cpu")
    shape = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
    BertLMHeadModel(BertConfig(vocab_size=11, initializer_range=0.5, **shape)).save_pretrained(tmp_path / "bert")
    with pytest.raises(RequestError, match="depend on later tokens"):
        load_causal(tmp_path / "bert", "cpu")


def test_a_causal_source_is_distinguished_from_ours(tiny_causal, tiny_run, tmp_path, monkeypatch):
    assert is_causal(tiny_causal)
    assert is_causal("gpt2")
    assert not is_causal(tiny_run)
    assert not is_causal(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"tokens": 27, "graph": {"type": "absorb"}}))
    assert not is_causal(tmp_path)
    assert not is_causal("nobody/nothing")  # out of reach
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    asked = []
    monkeypatch.setattr(pretrained, "cached_else_fetched", lambda source, load: asked.append(source))
    assert not is_causal("runs/mistyped")
    assert not asked


def test_a_model_with_gpt2s_type_and_size_is_not_gpt2_if_its_words_are_others(tiny_causal, tmp_path, monkeypatch):
    from sedd_cli.evaluation.scorers import causal as module

    model = load_causal(tiny_causal, "cpu")
    monkeypatch.setattr(module, "GPT2", ("gpt2", model.vocab_size))  # its type and size
    assert not model.gpt2
    model.pretrained_tokenizer = None  # ids alone: type and size are all there is to go by
    assert model.gpt2


def test_the_fingerprint_tells_configurations_apart(tmp_path):
    from support.causal_models import save_tiny_causal

    two, four = (load_causal(save_tiny_causal(tmp_path / str(n), n_head=n), "cpu") for n in (2, 4))
    again = load_causal(save_tiny_causal(tmp_path / "again", n_head=2), "cpu")
    assert two.fingerprint == again.fingerprint != four.fingerprint
