"""`Model`: what a loaded model does, and what it refuses."""

from __future__ import annotations

import pytest
import reference
import torch
from support.published_models import save_published

from sedd_cli import load_model
from sedd_cli.checkpoints import load
from sedd_cli.errors import RequestError
from sedd_cli.inference import bound
from sedd_cli.models.dit import DiT


def test_a_published_model_without_a_tokenizer_works_on_ids_and_says_so_for_text(tmp_path):
    save_published(tmp_path / "m")
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
    N, x, sigma = model.graph.vocab_size, torch.full((1, 5), model.graph.vocab_size), torch.tensor([0.7])
    z = reference.network(model.net.state_dict(), x, sigma, n_heads=2)
    expected = z - torch.expm1(sigma).log() - torch.tensor(float(N)).log()
    torch.testing.assert_close(model.log_score(x, sigma)[..., :N], expected[..., :N].float(), atol=1e-5, rtol=0)


def test_token_ids_outside_the_vocabulary_are_refused(tiny_run):
    model = load_model(tiny_run, device="cpu")
    N = model.graph.vocab_size
    with pytest.raises(RequestError, match=rf"\[0, {N + 1}\)"):
        model.log_score(torch.full((1, 4), N + 1), torch.tensor([1.0]))
    with pytest.raises(RequestError, match=rf"\[0, {N}\)"):
        model.bound(torch.full((1, 4), N))
    with pytest.raises(RequestError, match="int64"):
        model.log_score(torch.zeros(1, 4), torch.tensor([1.0]))


@pytest.mark.parametrize("other", ["pytorch_model.bin", "model.safetensors.index.json", "last.ckpt"])
def test_of_several_files_of_weights_the_description_names_the_one_that_is_taken(tmp_path, other):
    save_published(tmp_path / "m")
    assert "weights in" not in load_model(tmp_path / "m", device="cpu").describe()
    (tmp_path / "m" / other).write_bytes(b"of something else")
    (tmp_path / "m" / "training_args.bin").write_bytes(b"no weights")
    found = load_model(tmp_path / "m", device="cpu").describe()
    assert f"weights in model.safetensors, not {other}" in found


def test_weights_are_cast_on_the_device_they_are_used_on(tiny_run, monkeypatch):
    seen = []

    def cast(net, dtype):
        seen.append((dtype, {weight.device.type for weight in net.parameters()}))

    monkeypatch.setattr(DiT, "cast_for_inference", cast)
    monkeypatch.setattr(load, "pick_device", lambda _: torch.device("meta"))
    load.open_model(tiny_run, precision="bf16")
    assert seen == [(torch.bfloat16, {"meta"})]


def test_an_absent_device_is_refused(tiny_run):
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(RequestError, match="cuda"):
        load_model(tiny_run, device="cuda")


def test_a_device_without_float64_is_passed_over_for_the_cpu(monkeypatch):
    from sedd_cli.system.distributed import pick_device

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


def test_many_sequences_are_bounded_in_portions_that_fit(tiny_run, monkeypatch):
    model = load_model(tiny_run, device="cpu")
    tokens = torch.arange(5 * 8).view(5, 8) % model.graph.vocab_size
    whole, error = model.bound(tokens, draws=8, seed=3)
    sizes, real = [], bound.draw_bounds

    def limited(score, protocols, estimator, x0, *rest):
        sizes.append(len(x0))
        if len(x0) > 1:
            raise MemoryError
        return real(score, protocols, estimator, x0, *rest)

    monkeypatch.setattr(bound, "tokens_at_once", lambda device: 3 * 8)
    assert [len(part) for part in (whole, error)] == [5, 5]
    torch.testing.assert_close(model.bound(tokens, draws=8, seed=3), (whole, error), rtol=1e-5, atol=1e-5)
    monkeypatch.setattr(bound, "draw_bounds", limited)
    torch.testing.assert_close(model.bound(tokens, draws=8, seed=3), (whole, error), rtol=1e-5, atol=1e-5)
    assert max(sizes) == 3


def test_draws_of_a_bound_are_rounded_up_and_impossible_ones_refused(tiny_run):
    model = load_model(tiny_run, device="cpu")
    tokens = torch.ones(1, 4, dtype=torch.int64)
    assert model.bound(tokens, draws=6)[0] == model.bound(tokens, draws=8)[0] != model.bound(tokens, draws=4)[0]
    for options, words in (
        ({"draws": 0}, "draws must be"),
        ({"seed": -1}, "seed must"),
        ({"seed": 2**64}, "seed must"),
    ):
        with pytest.raises(RequestError, match=words):
            model.bound(tokens, **options)
    for nothing in (tokens[:, :0], tokens[:0]):
        with pytest.raises(RequestError, match="at least one token"):
            model.bound(nothing)
