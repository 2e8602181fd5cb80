"""`init_from` of other projects' checkpoints: training that starts from MDLM's, UDLM's, Duo's and GIDD's weights."""

from __future__ import annotations

import json

import pytest
import torch
from support import sedd_networks as made
from support.llamas import reference, save_hugging_face

from sedd_cli import load_model
from sedd_cli.errors import RequestError
from sedd_cli.recipe import load_recipe
from sedd_cli.system.events import Warn
from sedd_cli.training.fine_tuning import BY_STATE
from sedd_cli.training.train import TrainOptions, train

#: The shape of the tiny folders, and MDLM's objective.
SHAPE = ["model.hidden_size=16", "model.cond_dim=8", "model.n_blocks=2", "model.n_heads=2", "model.length=6"]
BYTES = [*SHAPE, "data.tokenizer=byte"]
MDLM = [*BYTES, "objective=masked_cross_entropy", "model.time=false"]
STILL = ["train.steps=1", "train.warmup=0", "train.lr=1e-30"]


def trained(workplace, tmp_path, *changes):
    """The model after training, the first losses, and the warnings about init_from."""
    recipe = load_recipe(workplace / "tiny.yaml", [f"init_from={tmp_path / 'm'}", *changes])
    events = list(train(recipe, TrainOptions(tmp_path / "run", "cpu", report=False)))
    warned = [e.text for e in events if isinstance(e, Warn) and e.text.startswith("init_from")]
    return load_model(tmp_path / "run", device="cpu"), warned


def test_training_starts_from_an_mdlm_as_it_is(workplace, tmp_path):
    net = made.save_hub(tmp_path / "m", "mdlm", 258)
    model, warned = trained(workplace, tmp_path, *MDLM, *STILL)
    assert [line for line in warned if "names no tokenizer" not in line] == []
    for name, value in model.net.named_parameters():
        assert torch.equal(value, dict(net.named_parameters())[name]), name
    x, t = torch.tensor([[1, 257, 3, 257, 257, 6]]), torch.tensor([0.4])
    expected = load_model(tmp_path / "m", device="cpu").log_p_x0(x, t)
    torch.testing.assert_close(model.log_p_x0(x, t), expected, rtol=1e-5, atol=1e-5)


def test_a_few_steps_lower_the_loss(workplace, tmp_path):
    made.save_hub(tmp_path / "m", "mdlm", 258)
    trained(workplace, tmp_path, *MDLM, "train.steps=60", "train.lr=3e-3", "train.log_every=10")
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in lines if line["kind"] == "train"]
    assert losses[-1] < 0.9 * losses[0]


def test_weights_without_a_noise_input_need_a_recipe_without_one(workplace, tmp_path):
    made.save_hub(tmp_path / "m", "mdlm", 258)
    with pytest.raises(RequestError, match=r"model\.time: False there, True here\); set model\.time=False$"):
        trained(workplace, tmp_path, *BYTES, "objective=masked_cross_entropy", *STILL)


def test_rows_follow_a_mask_in_the_middle(workplace, tmp_path):
    """GIDD's tokenizer a, b, [MASK], c: the recipe's ids are the tokenizer's own, and MASK stands behind them."""
    net = made.save_gidd_hub(tmp_path / "m", 0.0)
    (tmp_path / "corpus.txt").write_text("\n\n".join("a b c a c c b" for _ in range(90)))
    words = [*SHAPE, "objective=masked_cross_entropy", f"data.corpus={tmp_path / 'corpus.txt'}", "report.split=train"]
    named = f"data.tokenizer={tmp_path / 'm' / 'tokenizer.json'}"
    model, warned = trained(workplace, tmp_path, *words, named, *STILL)
    assert any("is conditioned on the time, this network on the total noise" in line for line in warned)
    assert not any("newly initialised" in line for line in warned)
    for name, value in model.net.named_parameters():
        theirs = dict(net.named_parameters())[name]
        if name in BY_STATE:
            theirs = theirs[[0, 1, 2, 3, 2]]
        assert torch.equal(value, theirs), name


def test_uniform_models_start_a_uniform_training_and_say_what_they_predict(workplace, tmp_path):
    net = made.save_hub(tmp_path / "m", "duo", 257)
    words = ["graph=uniform", "objective=d3pm", "sampler=tweedie", "data.tokenizer=byte"]
    model, warned = trained(workplace, tmp_path, *SHAPE, *words, *STILL)
    assert any("predicts a token given all other positions" in line for line in warned)
    for name, value in model.net.named_parameters():
        assert torch.equal(value, dict(net.named_parameters())[name]), name


@pytest.mark.parametrize(
    ("save", "what"),
    [
        (
            made.save_radd_hub,
            "has layer normalisations with biases and is not conditioned on the noise, which no recipe",
        ),
        (
            lambda path: made.save_hub(path, "bd3lm", variant=made.Variant(block_size=2), block_size=2),
            "fills blocks one after another, which no recipe can train",
        ),
        (
            lambda path: save_hugging_face(path, reference("Llama"), "a2d-llama", text=True),
            "is a Llama-like network, which no recipe can train",
        ),
    ],
)
def test_other_networks_are_refused_in_one_line(workplace, tmp_path, save, what):
    save(tmp_path / "m")
    (tmp_path / "new.txt").write_text("a new text\n" * 90)
    with pytest.raises(RequestError, match=what) as caught:
        trained(workplace, tmp_path, *MDLM, f"data.corpus={tmp_path / 'new.txt'}", *STILL)
    assert "\n" not in str(caught.value)
    assert not list((workplace / "home" / "data").glob("new-*"))  # before the text is prepared
    assert not (tmp_path / "run").exists()


def test_outputs_of_another_kind_and_a_graph_without_mask_are_refused(workplace, tmp_path):
    made.save_hub(tmp_path / "m", "mdlm", 258)
    with pytest.raises(RequestError, match="their outputs have different parametrizations"):
        trained(workplace, tmp_path, *BYTES, *STILL)
    with pytest.raises(RequestError, match="has the graph absorbing, this recipe uniform: one has a MASK"):
        trained(workplace, tmp_path, *BYTES, "objective=d3pm", "graph=uniform", *STILL)


def test_scores_of_another_scale_are_refused(workplace, tmp_path):
    """SEDD of MDLM's code learns ratios without the factor 1/expm1(sigma)."""
    (tmp_path / "m").mkdir()
    made.save_lightning(tmp_path / "m" / "last.ckpt", states=258, parameterization="sedd", time_conditioning=True)
    with pytest.raises(RequestError, match=r"scale_by_sigma=True\), this recipe .*scale_by_sigma=False"):
        trained(workplace, tmp_path, *BYTES, *STILL, "graph={name: absorbing, scale_by_sigma: false}")
    trained(workplace, tmp_path, *BYTES, *STILL)


@pytest.mark.parametrize("name", ["m", "file"])
def test_a_checkpoint_without_a_tokenizer_leaves_the_text_its_own(workplace, tmp_path, name):
    """A folder of MDLM holds none, and of a file of lightning none is taken."""
    if name == "m":
        made.save_hub(tmp_path / "m", "mdlm", 258)
    else:
        made.save_lightning(tmp_path / "file.ckpt", states=258, **made.SUBS)
    source = tmp_path / ("m" if name == "m" else "file.ckpt")
    words = [*SHAPE, "objective=masked_cross_entropy", "model.time=false", "data.tokenizer=null", *STILL]
    recipe = load_recipe(workplace / "tiny.yaml", [f"init_from={source}", *words])
    events = list(train(recipe, TrainOptions(tmp_path / "run", "cpu", report=False)))
    warned = [e.text for e in events if isinstance(e, Warn) and "newly initialised" in e.text]
    assert len(warned) == 1
