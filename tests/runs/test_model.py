"""`load_model`: every form it recognises, every damage it names."""

from __future__ import annotations

import json

import pytest
import reference
import torch
from safetensors.torch import save_file

from sedd_cli import load_model
from sedd_cli.errors import DamageError, RequestError
from sedd_cli.nets.dit import DiT, DiTConfig


def published(folder, graph="absorb", tokens=11, nested=False, **model):
    """A small random checkpoint in the published layout; returns its state dict."""
    shape = {"hidden_size": 16, "cond_dim": 8, "length": 12, "n_blocks": 2, "n_heads": 2, **model}
    scale = {"scale_by_sigma": graph == "absorb", "dropout": 0.1}
    noise = {"type": "loglinear" if graph == "absorb" else "geometric", "sigma_min": 1e-4, "sigma_max": 20}
    config = {"tokens": tokens, "graph": {"type": graph}, "noise": noise, "model": {**shape, **scale}}
    net = DiT(DiTConfig(**shape), tokens + (graph == "absorb"))
    torch.manual_seed(0)
    for p in net.parameters():
        torch.nn.init.normal_(p, std=0.3)
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps({"config": config} if nested else config))
    save_file(net.state_dict(), folder / "model.safetensors")
    return net.state_dict()


@pytest.mark.parametrize("graph", ["absorb", "uniform"])
@pytest.mark.parametrize("nested", [False, True])
def test_the_published_layout_loads_and_scores(tmp_path, graph, nested):
    published(tmp_path / "m", graph, nested=nested)
    model = load_model(tmp_path / "m", device="cpu")
    assert model.graph.name == {"absorb": "absorbing", "uniform": "uniform"}[graph]
    x = torch.randint(0, 11, (3, 7))
    sigma = torch.tensor([0.01, 0.5, 3.0])
    log_score = model.log_score(x, sigma)
    assert log_score.shape == (3, 7, model.graph.states)
    assert log_score.dtype == torch.float32
    assert (log_score.gather(-1, x[..., None]) == 0).all()
    assert model.noise(torch.tensor([0.1, 0.9]))[0].shape == (2,)
    assert model.graph.score_entropy(log_score, sigma, x, torch.randint(0, 11, (3, 7))).shape == (3, 7)


def test_a_published_model_without_a_tokenizer_works_on_ids_and_says_so_for_text(tmp_path):
    published(tmp_path / "m")
    model = load_model(tmp_path / "m", device="cpu")
    (sample,) = model.sample(1, steps=3)
    assert sample.text is None
    assert len(sample.tokens) == 12
    with pytest.raises(RequestError, match="--tokenizer"):
        model.infill("a [MASK:3]")
    with pytest.raises(RequestError, match="27 tokens"):
        load_model(tmp_path / "m", tokenizer="text8")


def test_a_run_a_checkpoint_and_the_newest_agree(tiny_run):
    x, sigma = torch.zeros(1, 5, dtype=torch.int64), torch.tensor([1.0])
    run = load_model(tiny_run, device="cpu")
    one = load_model(tiny_run / "checkpoints" / "step-12", device="cpu")
    assert torch.equal(run.log_score(x, sigma), one.log_score(x, sigma))
    assert run.tokenizer.fingerprint == one.tokenizer.fingerprint


def test_log_score_is_the_networks_output_scaled_by_sigma(tiny_run):
    model = load_model(tiny_run, device="cpu")
    N, x, sigma = model.graph.tokens, torch.full((1, 5), model.graph.tokens), torch.tensor([0.7])
    z = reference.network(model.net.state_dict(), x, sigma, n_heads=2)
    expected = z - torch.expm1(sigma).log() - torch.tensor(float(N)).log()
    torch.testing.assert_close(model.log_score(x, sigma)[..., :N], expected[..., :N].float(), atol=1e-5, rtol=0)


def test_token_ids_outside_the_vocabulary_are_refused(tiny_run):
    model = load_model(tiny_run, device="cpu")
    N = model.graph.tokens
    with pytest.raises(RequestError, match=rf"\[0, {N + 1}\)"):
        model.log_score(torch.full((1, 4), N + 1), torch.tensor([1.0]))
    with pytest.raises(RequestError, match=rf"\[0, {N}\)"):
        model.bound(torch.full((1, 4), N))
    with pytest.raises(RequestError, match="int64"):
        model.log_score(torch.zeros(1, 4), torch.tensor([1.0]))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda s: s.pop("blocks.0.attn_qkv.weight"), ["missing blocks.0.attn_qkv.weight"]),
        (lambda s: s.update(extra=torch.zeros(2)), ["unexpected extra"]),
        (lambda s: s.update({"blocks.1.norm1.weight": torch.zeros(3)}), ["blocks.1.norm1.weight", "[3]", "[16]"]),
    ],
)
def test_weights_that_do_not_fit_are_listed(tmp_path, change, words):
    state = published(tmp_path / "m")
    change(state)
    save_file(state, tmp_path / "m" / "model.safetensors")
    with pytest.raises(DamageError) as refused:
        load_model(tmp_path / "m", device="cpu")
    assert all(word in str(refused.value) for word in words)


def test_a_truncated_weight_file_is_named(tmp_path):
    published(tmp_path / "m")
    path = tmp_path / "m" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(DamageError, match=r"model\.safetensors"):
        load_model(tmp_path / "m", device="cpu")


@pytest.mark.parametrize(
    ("key", "value", "word"),
    [
        ("graph", {"type": "star"}, "absorb, uniform"),
        ("tokens", "many", "tokens must be int"),
        ("noise", {"type": "cosine"}, "loglinear"),
        ("model", {}, "model.scale_by_sigma is missing"),
    ],
)
def test_a_wrong_config_is_refused_naming_the_key(tmp_path, key, value, word):
    published(tmp_path / "m")
    path = tmp_path / "m" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), key: value}))
    with pytest.raises(RequestError, match=word):
        load_model(tmp_path / "m", device="cpu")


def test_what_is_no_model_is_refused(tmp_path):
    with pytest.raises(RequestError, match="is not a model"):
        load_model(tmp_path)
    with pytest.raises(RequestError, match="neither a folder nor a hub id"):
        load_model(tmp_path / "nowhere" / "at" / "all")
    with pytest.raises(RequestError, match=r"cannot fetch no/such-model.*Offline"):
        load_model("no/such-model")


def test_an_absent_device_is_refused(tiny_run):
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(RequestError, match="cuda"):
        load_model(tiny_run, device="cuda")


def test_a_device_without_float64_is_passed_over_for_the_cpu(monkeypatch):
    from sedd_cli.runs.dist import pick_device

    monkeypatch.setattr(torch, "empty", lambda *_, **__: None)  # as if it were here
    with pytest.warns(UserWarning, match="'mps' has no float64, which exact draws need: the CPU is used"):
        assert pick_device("mps") == torch.device("cpu")


def test_bf16_weights_are_what_autocast_makes_of_them(tiny_run):
    low = load_model(tiny_run, precision="bf16")
    kinds = {name: p.dtype for name, p in low.net.named_parameters()}
    assert kinds["blocks.0.attn_qkv.weight"] == torch.bfloat16
    assert {
        kinds[name] for name in ("vocab_embed.embedding", "blocks.0.norm1.weight", "output_layer.linear.weight")
    } == {torch.float32}
    full = load_model(tiny_run)
    assert all(p.dtype == torch.float32 for p in full.net.parameters())
    full.net.autocast = torch.bfloat16
    x, sigma = torch.randint(full.graph.states, (2, full.length)), torch.tensor([0.3, 1.0], dtype=torch.float64)
    assert torch.equal(low.log_score(x, sigma), full.log_score(x, sigma))
