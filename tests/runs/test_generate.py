"""Sampling and infilling through the model object."""

from __future__ import annotations

import pytest

from sedd_cli import load_model
from sedd_cli.errors import RequestError
from sedd_cli.runs.events import Sampled
from sedd_cli.runs.generate import GenerateOptions, generate_all


@pytest.fixture(scope="module")
def model(tiny_run):
    return load_model(tiny_run, device="cpu")


def test_prompts_survive_byte_for_byte_at_both_ends(model):
    for seed in range(20):
        (made,) = model.infill(prefix="the cat", suffix="list", length=18, seed=seed)
        assert made.text.startswith("the cat")
        assert made.text.endswith("list")
        assert len(made.tokens) == 18
        assert made.given == [(0, 7), (len(made.text) - 4, len(made.text))]


def test_a_sample_depends_on_seed_and_number_alone(model):
    five = [s.tokens for s in model.sample(5, seed=3)]
    assert [s.tokens for s in generate_all(model, GenerateOptions(n=2, seed=3, first=3))] == five[3:]
    assert model.sample(1, seed=4)[0].tokens != five[0]


def test_fewer_steps_cost_less_and_evaluations_are_at_most_steps_plus_one(model):
    assert 1 <= model.sample(1, steps=7)[0].nfe <= 8
    assert 1 <= model.sample(1)[0].nfe <= 5  # the recipe's sampler has four steps
    # two tokens fall in at most two of a thousand steps, and nothing else costs an evaluation
    assert model.sample(1, length=2, steps=1000, normalized=True)[0].nfe <= 2
    assert model.sample(1, length=9, sampler="first_hitting")[0].nfe == 9


def test_a_sample_holds_real_tokens_only(model):
    for sample in model.sample(50):
        assert isinstance(sample, Sampled)
        assert all(0 <= token < model.graph.tokens for token in sample.tokens)


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"length": 25}, "the model's 24"),
        ({"length": 0}, "between 1"),
        ({"prefix": "the cat sat on the mat for long"}, "nothing is left to fill"),
        ({"prefix": "the cat", "length": 7}, "nothing is left to fill"),
        ({"prefix": "Ω and the cat"}, "'Ω'"),
        ({"sampler": "ddim"}, "euler, first_hitting, tweedie"),
        ({"steps": 0}, "at least 1"),
        ({"n": 0}, "at least 1"),
    ],
)
def test_a_wrong_request_is_refused_with_the_reason(model, options, word):
    with pytest.raises(RequestError, match=word):
        generate_all(model, GenerateOptions(**options))
