"""Training that begins with what counts of the training tokens tell."""

from __future__ import annotations

import json

import pytest
import torch
from support.jobs import returned

from sedd_cli import load_model
from sedd_cli.data.prepare import prepare
from sedd_cli.data.shards import open_dataset
from sedd_cli.errors import RequestError
from sedd_cli.recipe import load_recipe
from sedd_cli.training.initialise import _factors
from sedd_cli.training.train import TrainOptions, train

#: One step that moves nothing to speak of.
STILL = ["train.steps=1", "train.warmup=0", "train.lr=1e-30"]


def begun(workplace, folder, *changes):
    """(the model after that step, the tokens of the training split)."""
    recipe = load_recipe(workplace / "tiny.yaml", [*STILL, *changes])
    list(train(recipe, TrainOptions(folder, "cpu", report=False)))
    split = open_dataset(returned(prepare(recipe.data.prepared())).folder).split("train")
    return load_model(folder), torch.from_numpy(split.read(0, split.tokens))


def rows(model):
    net, tokens = model.net, model.vocab_size
    return net.vocab_embed.embedding[:tokens], net.output_layer.linear.weight[:tokens], net.output_layer.linear.bias


@pytest.mark.parametrize("objective", ["score_entropy", "masked_cross_entropy"])
def test_with_unigrams_the_first_prediction_is_the_frequencies(workplace, tmp_path, objective):
    model, tokens = begun(workplace, tmp_path / "run", "train.start=unigrams", f"objective={objective}")
    x, sigma = torch.full((1, 24), model.graph.mask), torch.tensor([2.0])
    p = model.log_score(x, sigma).exp()[0, 0, : model.vocab_size].double() * torch.expm1(sigma.double())
    counts = tokens.bincount(minlength=model.vocab_size).double() + 0.5
    torch.testing.assert_close(p, counts / counts.sum(), rtol=1e-4, atol=0)


def test_with_bigrams_embedding_times_output_row_tells_how_often_tokens_follow_each_other(workplace, tmp_path):
    # rank 64 is above the 40 tokens: the factorisation is exact
    wide = "model.hidden_size=128"
    model, tokens = begun(workplace, tmp_path / "run", "train.start=bigrams", wide)
    size = model.vocab_size
    assert size < 64
    n, once = torch.zeros(size, size, dtype=torch.float64), tokens.bincount(minlength=size).double()
    for a, b in zip(tokens[:-1].tolist(), tokens[1:].tolist(), strict=True):
        n[a, b] += 1
    m = torch.log(1 + n / (torch.outer(once, once) / len(tokens) + 1))
    m -= m.mean(0)
    embedding, output, bias = (t.double() for t in rows(model))
    # the first half tells of the token before a position, the second half of the token behind it
    before, behind = embedding[:, :64] @ output[:, :64].T, embedding[:, 64:] @ output[:, 64:].T
    for found, expected in ((before, m), (behind, m.T)):
        scale = (found * expected).sum() / expected.square().sum()
        assert scale > 0
        torch.testing.assert_close(found / scale, expected, rtol=0, atol=1e-3)
    unigrams, _ = begun(workplace, tmp_path / "unigrams", "train.start=unigrams", wide)
    torch.testing.assert_close(bias, unigrams.net.output_layer.linear.bias.double())
    assert float(rows(unigrams)[1].abs().max()) < 1e-20


def test_with_bigrams_the_first_scores_stay_near_the_frequencies(workplace, tmp_path):
    """Output rows that are too large made the first loss several times that of the unigrams."""
    words = "train.batch=64", "model.dropout=0.0"
    for start in ("unigrams", "bigrams"):
        begun(workplace, tmp_path / start, f"train.start={start}", *words)
    logged = [json.loads((tmp_path / s / "metrics.jsonl").read_text())["loss"] for s in ("unigrams", "bigrams")]
    assert logged[1] < logged[0] + 0.1


def test_a_factorisation_of_lower_rank_is_the_best_one():
    generator = torch.Generator().manual_seed(0)
    dense = torch.randn(30, 6, generator=generator) @ torch.randn(6, 30, generator=generator)
    dense *= (torch.rand(30, 30, generator=generator) < 0.5) * 1.0
    left, right = _factors(dense.to_sparse(), 5, seed=1)
    centred = dense - dense.mean(0)
    u, s, v = torch.linalg.svd(centred)
    best = float((centred - (u[:, :5] * s[:5]) @ v[:5]).norm())
    assert best * 0.999 < float((centred - left @ right.T).norm()) < best * 1.02


def test_graphs_without_mask_start_at_random(workplace, tmp_path):
    model, _ = begun(workplace, tmp_path / "run", "train.start=bigrams", "graph=uniform")
    plain, _ = begun(workplace, tmp_path / "plain", "graph=uniform")
    for found, expected in zip(rows(model), rows(plain), strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-20)


def test_the_weights_of_a_trained_model_go_before_the_counts(workplace, tiny_run, tmp_path):
    model, _ = begun(workplace, tmp_path / "run", f"init_from={tiny_run}", "train.start=bigrams")
    for found, expected in zip(rows(model), rows(load_model(tiny_run)), strict=True):
        assert torch.equal(found, expected)


def test_another_start_is_refused(workplace):
    with pytest.raises(RequestError, match="start must be one of random, unigrams, bigrams, found 'trigrams'"):
        load_recipe(workplace / "tiny.yaml", ["train.start=trigrams"])
