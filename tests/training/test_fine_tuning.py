"""`init_from`: training that begins with the weights of a run, or of a published model in any form."""

from __future__ import annotations

import shutil

import pytest
import torch
from safetensors.torch import save_file
from support.published_models import save_published, save_training_directory

from sedd_cli import load_model
from sedd_cli.errors import DamageError, RequestError
from sedd_cli.recipe import load_recipe
from sedd_cli.system.events import Warn
from sedd_cli.training.fine_tuning import BY_STATE
from sedd_cli.training.train import TrainOptions, train

#: One step that moves nothing to speak of.
STILL = ["train.steps=1", "train.warmup=0", "train.lr=1e-30"]
#: The shape of the small published models, for the tiny recipe.
SHAPE = ["model.hidden_size=16", "model.cond_dim=8", "model.n_blocks=2", "model.n_heads=2"]


def begun(workplace, folder, source, *changes):
    """The weights after that step, and the warnings."""
    recipe = load_recipe(workplace / "tiny.yaml", [f"init_from={source}", *STILL, *changes])
    events = list(train(recipe, TrainOptions(folder, "cpu", report=False)))
    return load_model(folder), [e.text for e in events if isinstance(e, Warn) and e.text.startswith("init_from")]


def assert_equal_weights(one, other, but=()):
    theirs = dict(other.net.named_parameters())
    for name, value in one.net.named_parameters():
        if name not in but:
            assert torch.equal(value, theirs[name]), name


def test_a_run_begins_with_the_averaged_weights_of_another(workplace, tiny_run, tmp_path):
    model, warned = begun(workplace, tmp_path / "run", tiny_run)
    assert_equal_weights(model, load_model(tiny_run))
    assert warned == []


@pytest.mark.parametrize("now", ["of another format", "damaged"])
def test_a_run_that_has_begun_reads_its_source_no_more(workplace, tiny_run, tmp_path, now):
    source = tmp_path / "source"
    shutil.copytree(tiny_run, source)
    begun(workplace, tmp_path / "run", source)
    shutil.rmtree(source)
    source.mkdir()
    (source / "config.json").write_text('{"model_type": "llada"}' if now == "of another format" else "{")
    begun(workplace, tmp_path / "run", source)


def test_another_length_needs_no_new_weights(workplace, tiny_run, tmp_path):
    model, warned = begun(workplace, tmp_path / "run", tiny_run, "model.length=40")
    assert_equal_weights(model, load_model(tiny_run))
    assert model.length == 40
    assert warned == []
    x, sigma = torch.full((1, 40), model.graph.mask), torch.tensor([1.0])
    assert model.log_score(x, sigma).isfinite().all()


@pytest.mark.parametrize("form", ["published", "training directory", "export"])
def test_any_form_of_model_will_do(workplace, tiny_run, tmp_path, form):
    if form == "export":
        from sedd_cli.checkpoints.export import ExportOptions, export

        list(export(load_model(tiny_run), ExportOptions(tmp_path / "m")))
        model, warned = begun(workplace, tmp_path / "run", tmp_path / "m")
        assert warned == []
    else:
        tokens = load_model(tiny_run).vocab_size
        (save_published if form == "published" else save_training_directory)(tmp_path / "m", "absorb", tokens)
        model, warned = begun(workplace, tmp_path / "run", tmp_path / "m", *SHAPE)
        assert warned == [
            f"init_from: {tmp_path / 'm'} names no tokenizer: its token ids are assumed to be those of char"
        ]
    assert_equal_weights(model, load_model(tmp_path / "m"))


@pytest.mark.parametrize("graph", ["absorb", "uniform"])
def test_another_vocabulary_begins_embedding_and_output_anew_and_keeps_the_rest(workplace, tmp_path, graph):
    save_published(tmp_path / "m", graph, tokens=11)
    changes = [*SHAPE, *(["graph=uniform", "noise=geometric"] if graph == "uniform" else [])]
    model, (warned,) = begun(workplace, tmp_path / "run", tmp_path / "m", *changes)
    given = load_model(tmp_path / "m")
    assert model.vocab_size != given.vocab_size == 11
    difference = "was trained on the vocabulary 11 tokens, this recipe has char"
    assert f"{difference}: embedding and output rows are newly initialised" in warned
    assert_equal_weights(model, given, but=BY_STATE)
    embedding, head = model.net.vocab_embed.embedding, model.net.output_layer.linear
    assert head.weight.abs().max() < 1e-20  # zero, as a fresh network's, but for that step
    assert embedding[:11].sub(given.net.vocab_embed.embedding[:11]).abs().min() > 0
    if graph == "absorb":
        assert "and MASK's embedding is copied" in warned
        assert torch.equal(embedding[-1], given.net.vocab_embed.embedding[-1])


def test_another_tokenizer_of_the_same_size_is_another_vocabulary(workplace, tiny_run, tmp_path):
    """The same ids, other words: what counts is the fingerprint."""
    other = workplace / "other.txt"
    other.write_text((workplace / "corpus.txt").read_text().replace("a", "A"), encoding="utf-8")
    model, warned = begun(workplace, tmp_path / "run", tiny_run, f"data.corpus={other}")
    assert model.vocab_size == load_model(tiny_run).vocab_size
    assert "was trained on the vocabulary char, this recipe has another char" in warned[0]
    assert not torch.equal(model.net.vocab_embed.embedding[:5], load_model(tiny_run).net.vocab_embed.embedding[:5])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["graph=uniform"], "has the graph"),
        (["graph.scale_by_sigma=false"], "has the graph"),
        (["model.hidden_size=32"], "model.hidden_size: 16 there, 32 here"),
        (["init_from={home}"], "is not a model"),
    ],
)
def test_a_start_that_does_not_fit_is_refused(workplace, tiny_run, tmp_path, changes, message):
    changes = [change.format(home=workplace) for change in changes]
    words = changes if changes[0].startswith("init_from=") else [f"init_from={tiny_run}", *changes]
    with pytest.raises(RequestError, match=message):
        list(train(load_recipe(workplace / "tiny.yaml", words), TrainOptions(tmp_path / "run", "cpu")))
    assert not (tmp_path / "run").exists()


def test_what_it_begins_with_is_told_in_a_line(workplace, tiny_run, tmp_path):
    from sedd_cli.system.events import Note

    recipe = load_recipe(workplace / "tiny.yaml", [f"init_from={tiny_run}", *STILL])
    notes = [e.text for e in train(recipe, TrainOptions(tmp_path / "run", "cpu", report=False)) if isinstance(e, Note)]
    (line,) = (text for text in notes if text.startswith("starting from"))
    assert f"the weights of {load_model(tiny_run).describe()}" in line


def test_another_noise_is_pointed_out(workplace, tiny_run, tmp_path):
    _, (warned,) = begun(workplace, tmp_path / "run", tiny_run, "noise=geometric")
    assert "was trained with the noise schedule LogLinear(eps=0.001), this recipe has Geometric" in warned


def test_weights_that_are_not_finite_are_not_begun_with(workplace, tmp_path):
    state = save_published(tmp_path / "m")
    state["output_layer.linear.bias"][0] = float("inf")
    save_file(state, tmp_path / "m" / "model.safetensors")
    with pytest.raises(DamageError, match=r"are not finite: output_layer\.linear\.bias"):
        begun(workplace, tmp_path / "run", tmp_path / "m", *SHAPE)


def test_an_export_for_transformers_will_do(workplace, tiny_run, tmp_path):
    from sedd_cli.checkpoints.export import ExportOptions, export

    list(export(load_model(tiny_run), ExportOptions(tmp_path / "m", transformers=True)))
    model, warned = begun(workplace, tmp_path / "run", tmp_path / "m")
    assert_equal_weights(model, load_model(tiny_run))
    assert warned == []
