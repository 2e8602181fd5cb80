"""Every form in which a published model is found: recognised, strict, and the same scores as the plain network's."""

from __future__ import annotations

import json
import math

import pytest
import reference
import torch
import yaml
from support import published_models
from support.published_models import save_published, save_training_directory

from sedd_cli import load_model
from sedd_cli.checkpoints.published import config_of, parts_of
from sedd_cli.errors import DamageError, RequestError

GRAPHS = {"absorb": "absorbing", "uniform": "uniform"}
FORMS = {
    "safetensors": save_published,
    "safetensors, nested config": lambda folder, graph: save_published(folder, graph, nested=True),
    "pickle": lambda folder, graph: save_published(folder, graph, pickled=True),
    "pickle, nested config": lambda folder, graph: save_published(folder, graph, pickled=True, nested=True),
    "training directory": save_training_directory,
}
#: Of a batch: beside each other what hardly is noise and what hardly is text.
SIGMA = torch.tensor([1e-4, 0.3, 2.0, 18.0])


def plain_log_score(state, x, sigma, graph, tokens=11, scaled=True):
    """SPEC section 2 around the plain network: log s, 0 at the current token."""
    z = reference.network(state, x, sigma, published_models.SHAPE["n_heads"])
    if graph == "absorb" and scaled:
        z = z - (torch.expm1(sigma.double()).log() + math.log(tokens)).float()[:, None, None]
    return z.scatter(-1, x[..., None], 0.0)


@pytest.mark.parametrize("graph", GRAPHS)
@pytest.mark.parametrize("form", FORMS)
def test_every_form_scores_as_the_plain_network_does(tmp_path, form, graph):
    state = FORMS[form](tmp_path / "m", graph)
    model = load_model(tmp_path / "m", device="cpu")
    assert model.graph.name == GRAPHS[graph]
    for length in (1, 7, 12):
        x = torch.randint(model.graph.states, (4, length), generator=torch.Generator().manual_seed(length))
        log_score = model.log_score(x, SIGMA)
        assert log_score.shape == (4, length, model.graph.states)
        assert log_score.dtype == torch.float32
        # float32 through two blocks; entries reach about 15
        torch.testing.assert_close(log_score, plain_log_score(state, x, SIGMA, graph), atol=1e-5, rtol=1e-5)
    assert float(log_score.std()) > 0.5


def test_scores_are_not_scaled_where_the_configuration_says_so(tmp_path):
    state = save_published(tmp_path / "m", scale_by_sigma=False)
    x = torch.randint(12, (4, 5), generator=torch.Generator().manual_seed(0))
    expected = plain_log_score(state, x, SIGMA, "absorb", scaled=False)
    torch.testing.assert_close(load_model(tmp_path / "m").log_score(x, SIGMA), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("graph", GRAPHS)
def test_bf16_scores_are_those_of_fp32_but_for_rounding(tmp_path, graph):
    save_published(tmp_path / "m", graph)
    full, low = (load_model(tmp_path / "m", "cpu", precision) for precision in ("fp32", "bf16"))
    x = torch.randint(full.graph.states, (4, 12), generator=torch.Generator().manual_seed(0))
    exact, rounded = full.log_score(x, SIGMA), low.log_score(x, SIGMA)
    assert rounded.dtype == torch.float32
    spread = float(exact.std())
    moved = float((rounded - exact).square().mean().sqrt()) / spread
    # bfloat16 keeps 8 bits, 2^-8 a product, over two blocks and the head: measured 0.6 to 0.8 % of the spread
    assert 0 < moved < 0.02
    # what does not come from the network is not rounded: the scale by sigma, the zero of the current token
    assert (rounded.gather(-1, x[..., None]) == 0).all()


def test_the_averaged_weights_of_a_training_directory_count(tmp_path):
    averaged = save_training_directory(tmp_path / "run", step=1_300)
    live = torch.load(tmp_path / "run" / "checkpoints-meta" / "checkpoint.pth", weights_only=True)["model"]
    model = load_model(tmp_path / "run")
    assert model.facts == {"layout": "training directory", "step": 1300, "weights": "EMA"}
    for name, value in model.net.named_parameters():
        assert torch.equal(value, averaged[name])
        assert not torch.equal(value, live[name])


def test_one_line_tells_what_was_loaded(tmp_path):
    save_published(tmp_path / "m", "uniform")
    save_training_directory(tmp_path / "run")
    told = load_model(tmp_path / "m").describe()
    assert told.startswith(f"{tmp_path / 'm'}: uniform, geometric (sigma_min 0.0001, sigma_max 20), ")
    assert told.endswith("11 tokens (no tokenizer), layout published, weights as published")
    told = load_model(tmp_path / "run").describe()
    assert ": absorbing (scale_by_sigma true), loglinear (eps 0.001), 10,924 parameters, length 12, fp32, " in told
    assert told.endswith("layout training directory, step 700, weights EMA")


def test_a_snapshot_of_a_training_directory_loads_by_its_name(tmp_path):
    save_training_directory(tmp_path / "run")
    whole = load_model(tmp_path / "run").fingerprint
    (tmp_path / "run" / "checkpoints-meta" / "checkpoint.pth").rename(tmp_path / "run" / "checkpoints" / "c_13.pth")
    with pytest.raises(RequestError, match=r"has no checkpoints-meta/checkpoint.pth; name one of .*c_13\.pth"):
        load_model(tmp_path / "run")
    assert load_model(tmp_path / "run" / "checkpoints" / "c_13.pth").fingerprint == whole
    (tmp_path / "lone.pth").write_bytes(b"")
    with pytest.raises(
        RequestError, match=r"is a file of no known format: .* in a training directory .*\.hydra/config\.yaml"
    ):
        load_model(tmp_path / "lone.pth")


def test_50257_tokens_mean_gpt2_and_what_is_out_of_reach_is_said_when_it_is_needed(tmp_path, monkeypatch):
    from sedd_cli.checkpoints import load
    from sedd_cli.data.tokenizers.tiktoken import TiktokenTokenizer

    save_published(tmp_path / "m", tokens=50257, hidden_size=4, cond_dim=2, n_blocks=1, n_heads=1)

    def refused(spec):
        raise RequestError(f"tokenizer {spec!r} could not be loaded")

    monkeypatch.setattr(TiktokenTokenizer, "load", refused)
    model = load_model(tmp_path / "m")
    assert model.tokenizer is None
    assert "50,257 tokens (gpt2 not available)" in model.describe()
    with pytest.raises(RequestError, match="tokenizer 'gpt2' could not be loaded"):
        model.text_tokenizer()
    stand_in = type("T", (), {"vocab_size": 50257, "spec": "gpt2"})()
    monkeypatch.setattr(load, "load_tokenizer", lambda spec: stand_in if spec == "gpt2" else None)
    assert load_model(tmp_path / "m").tokenizer is stand_in


def test_a_tokenizer_in_the_folder_counts_and_one_that_is_named_counts_more(tmp_path):
    from sedd_cli.data.tokenizers import load_tokenizer

    save_published(tmp_path / "m", tokens=27)
    assert load_model(tmp_path / "m").tokenizer is None
    load_tokenizer("text8").save(tmp_path / "m")
    assert load_model(tmp_path / "m").tokenizer.spec == "text8"
    load_tokenizer("byte").save(tmp_path / "m")
    with pytest.raises(RequestError, match=r"has 257 tokens, .*/m has 27"):
        load_model(tmp_path / "m")
    assert load_model(tmp_path / "m", tokenizer="text8").tokenizer.spec == "text8"


@pytest.mark.parametrize("graph", GRAPHS)
@pytest.mark.parametrize("scaled", [True, False])
def test_a_configuration_describes_what_it_was_made_of(graph, scaled):
    given = published_models.config(graph, scale_by_sigma=scaled and graph == "absorb", cond_dim=6)
    parts = parts_of(given, "here")
    assert parts_of(config_of(*parts), "there") == parts
    made = config_of(*parts)
    assert made["tokens"] == 11
    assert made["graph"]["type"] == graph
    keys = ("hidden_size", "cond_dim", "length", "n_blocks", "n_heads", "scale_by_sigma", "dropout")
    assert {key: made["model"][key] for key in keys} == {key: given["model"][key] for key in keys}
    assert made["noise"]["type"] == given["noise"]["type"]


# Bad input


@pytest.mark.parametrize(
    ("change", "kind", "message"),
    [
        (lambda s: s["ema"]["shadow_params"].pop(), DamageError, "30 weights, but 29 averages"),
        (
            lambda s: s["ema"]["shadow_params"].reverse(),
            DamageError,
            r"vocab_embed.embedding is \[12, 16\], its average",
        ),
        (lambda s: s.pop("ema"), RequestError, "lacks model or ema.shadow_params"),
        (lambda s: s.pop("model"), RequestError, "lacks model or ema.shadow_params"),
        (lambda s: s["ema"]["shadow_params"].__setitem__(0, 3), DamageError, "must hold tensors"),
        (lambda s: s["model"].pop("blocks.0.norm1.weight"), DamageError, "29 weights, but 30 averages"),
    ],
)
def test_a_training_checkpoint_that_is_none_is_refused(tmp_path, change, kind, message):
    save_training_directory(tmp_path / "run")
    path = tmp_path / "run" / "checkpoints-meta" / "checkpoint.pth"
    stored = torch.load(path, weights_only=True)
    change(stored)
    torch.save(stored, path)
    with pytest.raises(kind, match=message):
        load_model(tmp_path / "run")


@pytest.mark.parametrize("layout", ["published", "training directory"])
@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("graph", {"type": "star"}, "graph.type must be one of absorb, uniform, .*, found 'star'"),
        ("graph", "absorb", "graph must hold keys and values, found 'absorb'"),
        ("tokens", "many", "tokens must be int, found 'many'"),
        ("tokens", True, "tokens must be int, found True"),
        ("tokens", 1, "vocab_size must be at least 2, found 1"),
        ("noise", {"type": "spiral"}, "noise.type must be one of loglinear, geometric"),
        ("noise", {"type": "geometric", "sigma_min": "low", "sigma_max": 20}, "noise.sigma_min: expected a number"),
        ("noise", {"type": "geometric", "sigma_min": 30, "sigma_max": 20}, "0 < sigma_min < sigma_max"),
        ("model", {}, "model.scale_by_sigma is missing"),
        ("model", {"scale_by_sigma": "yes"}, "model.scale_by_sigma must be bool, found 'yes'"),
        ("model", {"scale_by_sigma": True, **published_models.SHAPE, "n_heads": 2.0}, "model.n_heads must be int"),
        ("model", {"scale_by_sigma": True, **published_models.SHAPE, "n_heads": 3}, "multiple of 2·n_heads"),
        ("model", {"scale_by_sigma": True, **published_models.SHAPE, "dropout": "some"}, "model.dropout: expected a"),
    ],
)
def test_a_wrong_configuration_is_refused_naming_file_and_key(tmp_path, layout, key, value, message):
    save_published(tmp_path / "m") if layout == "published" else save_training_directory(tmp_path / "m")
    path = tmp_path / "m" / ("config.json" if layout == "published" else ".hydra/config.yaml")
    path.write_text(yaml.safe_dump({**published_models.config(), key: value}, default_flow_style=True))
    if layout == "published":
        path.write_text(json.dumps(yaml.safe_load(path.read_text())))
    with pytest.raises(RequestError, match=message) as refused:
        load_model(tmp_path / "m")
    assert str(path) in str(refused.value)


@pytest.mark.parametrize("layout", ["published", "training directory"])
@pytest.mark.parametrize(("text", "kind"), [("{", DamageError), ("[1]", RequestError), ("\x00", DamageError)])
def test_a_configuration_that_is_none_is_named(tmp_path, layout, text, kind):
    save_published(tmp_path / "m") if layout == "published" else save_training_directory(tmp_path / "m")
    path = tmp_path / "m" / ("config.json" if layout == "published" else ".hydra/config.yaml")
    path.write_text(text)
    with pytest.raises(kind, match=path.name):
        load_model(tmp_path / "m")


def test_what_is_no_model_is_refused(tmp_path):
    with pytest.raises(RequestError, match=r"is not a model: neither a run .*config\.json.*\.hydra/config\.yaml"):
        load_model(tmp_path)
    save_published(tmp_path / "m")
    assert load_model(tmp_path / "m" / "model.safetensors").length == 12
    (tmp_path / "m" / "notes.txt").touch()
    with pytest.raises(
        RequestError,
        match=r"is a file of no known format: neither model.* holds no tensors by name .*; formats of others: ",
    ):
        load_model(tmp_path / "m" / "notes.txt")
    (tmp_path / "m" / "model.safetensors").unlink()
    with pytest.raises(RequestError, match=r"has config\.json but neither model\.safetensors nor pytorch_model\.bin"):
        load_model(tmp_path / "m")
    with pytest.raises(RequestError, match="neither a folder nor a hub id"):
        load_model(tmp_path / "nowhere" / "at" / "all")


def test_absurd_sizes_are_refused_before_they_are_built(tmp_path):
    save_published(tmp_path / "m")
    path = tmp_path / "m" / "config.json"
    config = json.loads(path.read_text())
    config["model"]["n_blocks"] = 10**4
    path.write_text(json.dumps(config))
    with pytest.raises(DamageError, match=r"model\.n_blocks is 10,000, but .* holds 31 tensors"):
        load_model(tmp_path / "m")


def test_a_tokenizer_file_of_another_library_is_passed_over(tmp_path):
    save_published(tmp_path / "m", tokens=27)
    (tmp_path / "m" / "tokenizer.json").write_text("{}")
    assert load_model(tmp_path / "m").tokenizer is None


def test_a_geometric_schedule_needs_its_ends(tmp_path):
    save_published(tmp_path / "m", "uniform")
    path = tmp_path / "m" / "config.json"
    config = json.loads(path.read_text())
    del config["noise"]["sigma_max"]
    path.write_text(json.dumps(config))
    with pytest.raises(RequestError, match=r"noise\.sigma_max is missing"):
        load_model(tmp_path / "m")


@pytest.mark.parametrize("change", ["objective=masked_cross_entropy", "objective=autoregressive", "graph=uniform"])
def test_a_recipe_of_another_model_does_not_change_what_weights_mean(tmp_path, change):
    from sedd_cli.recipe import dump_recipe, load_recipe

    save_published(tmp_path / "m")
    before = load_model(tmp_path / "m").fingerprint
    (tmp_path / "m" / "recipe.yaml").write_text(dump_recipe(load_recipe("quickstart")))
    assert load_model(tmp_path / "m").recipe is not None
    (tmp_path / "m" / "recipe.yaml").write_text(dump_recipe(load_recipe("quickstart", [change])))
    model = load_model(tmp_path / "m")
    assert model.recipe is None
    assert "it describes another model than config.json" in model.describe()
    assert model.fingerprint == before
