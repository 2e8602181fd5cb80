"""Recipes: strict, typed, helpful when wrong."""

from __future__ import annotations

import pytest
import yaml

from sedd_cli.errors import RequestError
from sedd_cli.recipe import dump_recipe, load_recipe, recipe_from, shipped
from sedd_cli.recipe.assemble import check_recipe
from sedd_cli.recipe.part import TypedSampler

PAPER = {"lr": 3e-4, "batch": 512, "ema": 0.9999, "clip": 1.0, "warmup": 2000, "weight_decay": 0.0}


@pytest.mark.parametrize("name", shipped())
def test_a_shipped_recipe_survives_dump_and_load(name):
    recipe = load_recipe(name)
    assert recipe.name == name.split("/")[-1]
    assert recipe_from(yaml.safe_load(dump_recipe(recipe))) == recipe


@pytest.mark.parametrize("name", shipped())
def test_a_shipped_recipe_can_be_trained_and_reported(name):
    check_recipe(load_recipe(name))


@pytest.mark.parametrize("every", ["0", "null"])
def test_zero_or_null_validates_never_during_training(every):
    assert not load_recipe("quickstart", [f"report.every={every}"]).report.every


def test_a_negative_interval_of_validation_is_refused():
    with pytest.raises(RequestError, match="every must be at least 0, found -1"):
        load_recipe("quickstart", ["report.every=-1"])


@pytest.mark.parametrize(
    "name", sorted(n for n in set(shipped()) - {"quickstart", "markov"} if not n.startswith("mini/"))
)
def test_a_paper_recipe_has_the_papers_hyperparameters(name):
    recipe = load_recipe(name)
    for key, value in PAPER.items():
        assert getattr(recipe.train, key) == value, key
    assert recipe.train.betas == (0.9, 0.999)
    assert recipe.model.dropout == 0.1
    size = (24, 1024, 16) if "medium" in name else (12, 768, 12)
    assert (recipe.model.n_blocks, recipe.model.hidden_size, recipe.model.n_heads) == size
    assert recipe.model.length == {"gpt2": 1024, "text8": 256, "lm1b": 128}[name.split("_")[0]]
    assert recipe.train.steps == (400_000 if name.startswith("gpt2") else 1_000_000)
    assert recipe.data.windows == name.startswith("text8")
    if "uniform" in name:
        assert (recipe.graph.name, recipe.noise.name) == ("uniform", "geometric")
        assert recipe.noise.options == {"sigma_min": 1e-5, "sigma_max": 20.0}
    else:
        assert (recipe.graph.name, recipe.noise.name) == ("absorbing", "loglinear")


def test_the_expected_recipes_ship():
    kinds = ("gpt2_small", "gpt2_medium", "gpt2_small_uniform", "gpt2_medium_uniform", "quickstart")
    assert set(kinds) <= set(shipped())
    assert {f"{data}_{graph}" for data in ("text8", "lm1b") for graph in ("absorb", "uniform")} <= set(shipped())


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("trian.steps=4", ["trian.steps", "'train.steps'"]),
        ("train.stepz=4", ["train.stepz", "'train.steps'"]),
        ("train.steps=many", ["train.steps", "whole number", "'many'"]),
        ("train.steps=1.5", ["train.steps", "whole number", "1.5"]),
        ("train.steps=true", ["train.steps", "whole number", "'true'"]),
        ("train.steps=0", ["steps", "at least 1", "0"]),
        ("train.lr=fast", ["train.lr", "a number", "'fast'"]),
        ("train.betas=[0.9]", ["train.betas", "2 values"]),
        ("train.betas=[0.9, x]", ["train.betas[1]", "a number", "'x'"]),
        ("train.optimizer=sgd", ["optimizer", "adamw, muon", "'sgd'"]),
        ("train.micro_batch=99", ["micro_batch", "18", "99"]),
        ("noise.name=loglinar", ["noise.name", "'loglinar'", "'loglinear'"]),
        ("noise.eps=2.0", ["noise", "eps", "2.0"]),
        ("graph={name: uniform, scale_by_sigma: true}", ["scale_by_sigma", "absorbing", "'uniform'"]),
        ("graph=", ["graph", "a name"]),
        ("model.n_heads=7", ["n_heads 7", "hidden_size 128"]),
        ("model.attention=fast", ["attention", "sdpa", "'fast'"]),
        ("seed=-1", ["seed", "-1"]),
        ("name=a/b", ["name", "'a/b'"]),
        ("train.steps", ["key=value"]),
        ("sampler.steps=0", ["sampler", "steps", "0"]),
        ("model=5", ["model", "keys and values", "5"]),
    ],
)
def test_a_wrong_value_is_refused_naming_key_value_and_what_is_accepted(override, words):
    with pytest.raises(RequestError) as refused:
        load_recipe("quickstart", [override])
    message = str(refused.value)
    assert all(word in message for word in words), message
    assert "\n" not in message


def test_overrides_reach_into_a_short_form():
    recipe = load_recipe("quickstart", ["graph=absorbing", "graph.scale_by_sigma=false", "train.lr=3e-4"])
    assert recipe.graph.options == {"scale_by_sigma": False}
    assert recipe.train.lr == 3e-4


@pytest.mark.parametrize(
    ("content", "word"),
    [("a: [", "not YAML"), ("- 1", "keys and values"), ("name: x", "missing"), (b"\xff\xfe\xfa", "not YAML")],
)
def test_a_file_that_is_no_recipe_is_refused_in_one_line(tmp_path, content, word):
    path = tmp_path / "bad.yaml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(RequestError, match=word) as refused:
        load_recipe(path)
    assert "\n" not in str(refused.value)


def test_an_unknown_recipe_names_the_nearest():
    with pytest.raises(RequestError, match="did you mean 'quickstart'"):
        load_recipe("quikstart")


def test_another_graph_by_name_drops_the_options_of_the_one_before():
    recipe = load_recipe("quickstart", ["graph.name=uniform", "noise.name=geometric", "noise.sigma_max=10"])
    assert recipe.graph.to_data() == {"name": "uniform"}
    assert recipe.noise.to_data()["sigma_max"] == 10
    assert load_recipe("quickstart", ["graph.name=absorbing"]) == load_recipe("quickstart")


@pytest.mark.parametrize(
    ("first", "then"),
    [
        ("noise.sigma_max=30", "noise.name=geometric"),
        ("objective.weight_power=0.2", "objective.name=masked_cross_entropy"),
        ("sampler={name: euler, steps: 5}", "sampler.name=tweedie"),
    ],
)
def test_an_override_that_would_drop_an_earlier_one_is_refused(first, then):
    with pytest.raises(RequestError, match=rf"override {then.partition('=')[0]} drops {first.partition('=')[0]}: name"):
        load_recipe("quickstart", [first, then])


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("schedule=geometric", "schedule: unknown key, did you mean 'noise'?"),
        ("loss=score_entropy", "loss: unknown key, did you mean 'objective'?"),
        ("noise={name:", "put the whole override in quotes"),
        ("graph={name:uniform}", "a space belongs behind the colon of name:uniform"),
        ("data=my.txt", "data: expected keys and values, found 'my.txt'; write data.corpus=my.txt"),
        ("train=500", "train: expected keys and values, found '500'; write train.KEY=VALUE"),
        ("train.eval_every=20", "train.eval_every: unknown key, did you mean 'report.every'?"),
        ("model.blocks=2", "model.blocks: unknown key, did you mean 'model.n_blocks'?"),
        ("model.dim=64", "model.dim: unknown key, did you mean 'model.hidden_size'?"),
        ("train.schedule=cosin", "found 'cosin'; did you mean 'cosine'?"),
        ("sampler.grid=Cosin", "found 'Cosin'; did you mean 'cosine'?"),
    ],
)
def test_what_a_shell_or_a_habit_makes_of_an_override_is_explained(override, message):
    with pytest.raises(RequestError) as error:
        load_recipe("quickstart", [override])
    assert message in str(error.value)


def test_an_override_reaches_into_a_whole_section_that_stands_before_it(tmp_path):
    text = tmp_path / "my.txt"
    text.write_text("a line\n" * 50)
    words = [f"data={{corpus: {text}, hold_out: tail}}", "data.tokenizer=char", "noise={name: geometric}"]
    found = load_recipe("quickstart", [*words, "noise.sigma_max=9"])
    assert (found.data.corpus, found.data.tokenizer, found.data.hold_out) == (str(text), "char", "tail")
    assert found.noise.options["sigma_max"] == 9.0
    assert found.report.infill.cut  # the prompt of the Python manual is left out, as with data.corpus=…
    assert load_recipe("quickstart", words[:1]).data.tokenizer is None


def test_several_values_are_typed_with_commas():
    found = load_recipe("quickstart", ["train.extended=10, 20", "train.steps=30", "train.betas=0.9,0.99"])
    assert (found.train.extended, found.train.betas) == ((10, 20), (0.9, 0.99))
    with pytest.raises(RequestError, match=r"train.extended\[1\]: expected a whole number, found 'b'"):
        load_recipe("quickstart", ["train.extended=10,b"])


def test_an_override_given_twice_is_refused():
    with pytest.raises(RequestError, match=r"override train\.steps is given twice"):
        load_recipe("quickstart", ["train.steps=4", "train.steps=5"])


@pytest.mark.parametrize(
    ("override", "part"),
    [
        ("objective.weighting=flat", {"name": "score_entropy", "weighting": "flat"}),
        ("sampler.steps=9", {"name": "tweedie", "steps": 9}),
        ("noise.eps=0.01", {"name": "loglinear", "eps": 0.01}),
        ("graph.scale_by_sigma=false", {"name": "absorbing", "scale_by_sigma": False}),
    ],
)
def test_an_override_reaches_into_a_part_that_the_recipe_leaves_at_its_default(tmp_path, override, part):
    own = yaml.safe_load(shipped()["markov"].read_text())
    own |= {"graph": "absorbing", "noise": "loglinear"}
    for key in ("objective", "sampler"):
        own.pop(key, None)
    (tmp_path / "own.yaml").write_text(yaml.safe_dump(own))
    data = load_recipe(tmp_path / "own.yaml", [override]).to_data()[override.partition(".")[0]]
    assert {key: data[key] for key in part} == part


def test_a_name_that_is_unknown_is_answered_without_files_of_the_package():
    with pytest.raises(RequestError, match=r"unknown graph 'drift'\. Accepted: [\w, ]+; parts of your own: "):
        load_recipe("markov", ["graph=drift"])


def test_values_within_braces_and_brackets_are_typed_too():
    """YAML takes 010 for eight, 1:30 for ninety, no for false and 2024-01-01 for a date."""
    found = load_recipe(
        "quickstart", ["train={steps: 010, batch: 12, lr: 1e-3, recompute: no}", "train.extended=[08, 9]"]
    )
    assert (found.train.steps, found.train.lr, found.train.recompute) == (10, 1e-3, False)
    assert found.train.extended == (8, 9)
    data = load_recipe("quickstart", ["data={corpus: 2024-01-01, tokenizer: 010, eos: no, field: null}"]).data
    assert (data.corpus, data.tokenizer, data.eos, data.field) == ("2024-01-01", "010", "no", None)
    with pytest.raises(RequestError, match=r"train.batch: expected a whole number, found '1:30'"):
        load_recipe("quickstart", ["train={steps: 10, batch: 1:30}"])
    assert TypedSampler.read("{name: confidence, block_length: 010}").options == {"block_length": 10}


@pytest.mark.parametrize("name", ["a\0b", "\ud800"])
def test_a_name_that_no_folder_can_have_is_refused(name):
    with pytest.raises(RequestError, match="name must be usable as a folder name"):
        load_recipe("quickstart", [f"name={name}"])
