"""How two recipes differ."""

from __future__ import annotations

import pytest

from sedd_cli.recipe import load_recipe
from sedd_cli.recipe.differences import Difference, differences


def test_a_difference_names_the_nested_key_and_both_values():
    one, two = load_recipe("quickstart"), load_recipe("quickstart", ["train.steps=5", "noise=geometric"])
    found = differences(one.to_data(), two.to_data())
    assert Difference("train.steps", str(one.train.steps), "5") in found
    assert Difference("noise.name", "loglinear", "geometric") in found
    assert differences(one.to_data(), one.to_data()) == []


def test_values_are_spelled_as_overrides_and_may_hold_any_character():
    old, new = {"a": 1, "b": None, "c": 0.5, "d": "x: 1 → 2"}, {"a": True, "b": [1], "c": "x", "d": "y"}
    found = differences(old, new)  # 1 is True to Python
    assert [change[:3] for change in found] == [("b", "null", "[1]"), ("c", "0.5", "x"), ("d", "x: 1 → 2", "y")]
    assert str(found[0]) == "b: null → [1]"


@pytest.mark.parametrize(
    ("key", "expected"),
    [("train.keep", True), ("train.keep_all", False), ("sampler", True), ("sampler.steps", True), ("samplers", False)],
)
def test_a_key_is_within_itself_and_within_its_section(key, expected):
    assert Difference(key, "1", "2").within(("train.keep", "sampler")) == expected
