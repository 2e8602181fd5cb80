"""One optimizer step, written out by hand beside the one that training takes."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from support.jobs import returned

from sedd_cli import load_model
from sedd_cli.checkpoints import checkpoint
from sedd_cli.core.random import NOISE, Stream
from sedd_cli.data.loader import Loader
from sedd_cli.data.prepare import prepare
from sedd_cli.data.prepared import PrepareOptions
from sedd_cli.data.shards import open_dataset
from sedd_cli.evaluation.baselines.ngram import NGram
from sedd_cli.evaluation.likelihood.evaluate import EvaluateOptions, evaluate
from sedd_cli.evaluation.likelihood.summary import between_documents
from sedd_cli.inference.bound import MonteCarloOptions
from sedd_cli.models.dit import DiT
from sedd_cli.recipe import load_recipe
from sedd_cli.training import loop, step
from sedd_cli.training.state import LossModule
from sedd_cli.training.step import time_uniforms
from sedd_cli.training.train import TrainOptions, train


def dataset_of(recipe):
    made = returned(prepare(PrepareOptions(corpus=recipe.data.corpus, tokenizer=recipe.data.tokenizer)))
    return open_dataset(made.folder)


def trained(workplace, folder, *overrides):
    words = {"train.steps": "1", "train.log_every": "1"} | dict(word.split("=", 1) for word in overrides)
    recipe = load_recipe(workplace / "tiny.yaml", [f"{key}={value}" for key, value in words.items()])
    list(train(recipe, TrainOptions(folder, "cpu", report=False)))
    return recipe, checkpoint.latest(folder)


@pytest.mark.parametrize("micro", ["null", "2"])
def test_noise_that_is_drawn_a_step_ahead_is_the_same(workplace, tmp_path, monkeypatch, micro):
    changes = "train.steps=3", f"train.micro_batch={micro}"
    _, wanted = trained(workplace, tmp_path / "drawn-in-time", *changes)
    monkeypatch.setattr(step, "DRAWN_AHEAD", {"cpu"})
    calls, draw = [], step._noise
    monkeypatch.setattr(step, "_noise", lambda *given: calls.append(given[2]) or draw(*given))
    _, found = trained(workplace, tmp_path / "drawn-ahead", *changes)
    assert sorted({key[0] for key in calls}) == [0, 1, 2, 3]
    assert len(calls) == len(set(calls))  # nothing is drawn twice
    for name, value in wanted.tensors("weights").items():
        assert torch.equal(value, found.tensors("weights")[name])


def test_micro_batches_lie_in_the_memory_of_the_batch(workplace, tmp_path, monkeypatch):
    """A copy of a page-locked batch would be in ordinary memory, from which a GPU does not copy while it computes."""
    given, drawn = [], []
    gradients, forward = loop.gradients, LossModule.forward
    monkeypatch.setattr(
        loop, "gradients", lambda state, batch, rows: drawn.append(batch) or gradients(state, batch, rows)
    )
    monkeypatch.setattr(LossModule, "forward", lambda self, x0, v, u: given.append(x0) or forward(self, x0, v, u))
    trained(workplace, tmp_path / "run", "train.micro_batch=3")
    assert [len(x0) for x0 in given] == [3, 3, 2]
    assert torch.equal(torch.cat(given), drawn[0])
    assert {x0.untyped_storage().data_ptr() for x0 in given} == {drawn[0].untyped_storage().data_ptr()}


@pytest.mark.parametrize("clip", [1.0, 1000.0])
def test_a_step_is_algorithm_1_then_clip_then_adamw_then_ema(workplace, tmp_path, clip):
    # a large eps keeps the size of the gradient in AdamW's step, which would otherwise cancel
    changes = ("model.dropout=0.0", "train.eps=1.0", "train.weight_decay=0.1", f"train.clip={clip}")
    recipe, found = trained(workplace, tmp_path / "run", *changes)
    plan, L, data = recipe.train, recipe.model.length, dataset_of(recipe)
    N = data.tokenizer.vocab_size

    torch.manual_seed(recipe.seed)
    net = DiT(recipe.model, N + 1)
    start = {name: p.detach().clone() for name, p in net.named_parameters()}
    x0 = torch.from_numpy(Loader(data.split("train"), L, plan.batch, recipe.seed).batch(0))
    index = torch.arange(plan.batch)
    t = 1e-3 + (1 - 1e-3) * time_uniforms(recipe, 0, index)
    lam = (1 - 1e-3) * t
    u = Stream(recipe.seed, NOISE, index).uniforms(0, L)[0]
    x = torch.where(u < lam[:, None], N, x0)
    z = net(x, -torch.log1p(-lam))[..., :N]
    m = z.logsumexp(-1) - math.log(N)
    ce = -z.log_softmax(-1).gather(-1, x0[..., None])[..., 0]
    per_sequence = ((x == N) * (ce + m.exp() - 1 - m)).sum(-1) / t  # w = 1/t under loglinear noise
    per_sequence.mean().backward()
    norm = torch.cat([p.grad.flatten() for p in net.parameters()]).norm()
    scale = min(1.0, clip / float(norm))
    assert (scale < 1) == (clip == 1.0)  # the two cases are two

    lr = plan.lr / plan.warmup
    for name, p in net.named_parameters():
        g = p.grad * scale
        after = start[name] * (1 - lr * 0.1) - lr * g / (g.abs() + 1.0)  # the first step of Adam, bias corrected
        # float32 rounding of another order of operations
        torch.testing.assert_close(found.tensors("weights")[name], after, rtol=1e-4, atol=1e-7)
        averaged = start[name] + (after - start[name]) * (1 - 2 / 11)
        torch.testing.assert_close(found.tensors("ema")[name], averaged, rtol=1e-4, atol=1e-7)

    (line,) = map(json.loads, (tmp_path / "run" / "metrics.jsonl").read_text().splitlines())
    assert line["loss"] == pytest.approx(float(per_sequence.detach().mean()) / L, rel=1e-5)
    assert line["grad_norm"] == pytest.approx(float(norm), rel=1e-4)
    assert line["lr"] == pytest.approx(lr)


@pytest.mark.parametrize("batch", [1, 2, 7, 8, 512])
def test_stratified_levels_are_one_a_stratum_scattered_over_the_batch(batch):
    recipe = load_recipe("quickstart", [f"train.batch={batch}"])
    found = time_uniforms(recipe, 5, torch.arange(batch))
    strata = (found * batch).long()
    assert sorted(strata.tolist()) == list(range(batch))
    assert torch.equal(time_uniforms(recipe, 5, torch.arange(batch // 2, batch)), found[batch // 2 :])
    if batch == 512:
        # the halves of two processes hold about as much noise
        assert abs(float(found[:256].mean() - found[256:].mean())) < 0.05


def test_uniform_levels_are_the_papers():
    recipe = load_recipe("quickstart", ["train.batch=512", "train.t_sampling=uniform"])
    found = time_uniforms(recipe, 0, torch.arange(512))
    assert len(set((found * 512).long().tolist())) < 400  # 324 of 512 strata expected to be hit
    assert 0.4 < float(found.mean()) < 0.6


@pytest.mark.parametrize("change", ["model.dropout=0.5", "data.windows=true", "seed=20240101123456 model.dropout=0.1"])
def test_an_option_of_the_recipe_reaches_the_step(workplace, tmp_path, change):
    # several steps: while head and gates are zero, the first one does not feel dropout
    base = ("train.steps=4", "model.dropout=0.0")
    plain = trained(workplace, tmp_path / "plain", *base)[1].tensors("weights")
    changed = trained(workplace, tmp_path / "other", *base, *change.split())[1].tensors("weights")
    assert any(not torch.equal(plain[name], changed[name]) for name in plain)


def test_a_micro_batch_without_a_mask_is_an_ordinary_one(workplace, tmp_path):
    # a single token is left unmasked half of the time
    changes = ("train.steps=6", "train.batch=4", "train.micro_batch=1", "model.length=1")
    found = trained(workplace, tmp_path / "run", *changes)[1]
    assert found.step == 6
    assert all(v.isfinite().all() for v in found.tensors("weights").values())


def test_a_run_is_loaded_and_reported_with_its_averaged_weights(tiny_run, workplace):
    model, found = load_model(tiny_run, device="cpu"), checkpoint.latest(tiny_run)
    for name, p in model.net.named_parameters():
        assert torch.equal(p, found.tensors("ema")[name])
    assert any(not torch.equal(v, found.tensors("weights")[name]) for name, v in found.tensors("ema").items())
    stored = json.loads((tiny_run / "results" / "test-step-12.json").read_text())
    options = EvaluateOptions("test", monte_carlo=MonteCarloOptions(rel_error=0.5))
    again = returned(evaluate(model, dataset_of(model.recipe), options)).to_dict()
    assert again["bounds"] == stored["bounds"]


def test_bits_per_character_count_every_token_over_the_characters(tiny_run):
    model = load_model(tiny_run, device="cpu")
    data = dataset_of(model.recipe)
    options = EvaluateOptions("test", monte_carlo=MonteCarloOptions(rel_error=0.5))
    result = returned(evaluate(model, data, options)).to_dict()
    found, split = result["bounds"]["rigorous"], data.split("test")
    text = model.tokenizer.decode(split.read(0, split.tokens))
    characters = len(text.replace(model.tokenizer.separator, ""))
    assert split.characters == characters
    expected = found["nats_per_token"] * split.tokens / characters / math.log(2)
    assert found["bits_per_char"] == pytest.approx(expected)
    train_tokens, test_tokens = (data.split(s).read(0, data.split(s).tokens) for s in ("train", "test"))
    nats = NGram(train_tokens, model.graph.vocab_size, 5).nats(test_tokens).sum()
    assert result["baselines"]["5-gram, in one piece"] == pytest.approx(nats / characters / math.log(2))


def test_the_error_of_the_text_leaves_the_error_of_the_draws_out():
    generator = np.random.default_rng(0)
    lengths, each = np.full(400, 10), np.arange(400)
    truth = 30 + 2 * generator.standard_normal(400)
    draws = 20 * generator.standard_normal((16, 400))
    # the standard error of 400 blocks with deviation 2, over 10 tokens each
    assert between_documents(truth + np.zeros((16, 1)), lengths, each) == pytest.approx(2 / 20 / 10, rel=0.1)
    assert between_documents(truth + draws, lengths, each) == pytest.approx(2 / 20 / 10, rel=0.8)
    assert between_documents(truth + draws, lengths, each) < 0.6 * math.hypot(2, 20 / 4) / 20 / 10
    assert between_documents(np.full((4, 5), 3.0), np.full(5, 10), np.arange(5)) == 0
    assert between_documents(np.ones((4, 1)), np.ones(1), np.zeros(1)) is None
    assert between_documents(np.ones((4, 3)), np.ones(3), np.zeros(3)) is None


def test_blocks_of_one_document_count_as_one_piece_of_text():
    generator = np.random.default_rng(1)
    documents = np.repeat(generator.standard_normal(100), 4)  # four blocks each, alike
    lengths = np.full(400, 10)
    apart = between_documents(documents[None], lengths, np.arange(400))
    together = between_documents(documents[None], lengths, np.arange(400) // 4)
    assert together == pytest.approx(2 * apart, rel=0.02)
