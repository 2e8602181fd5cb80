"""What a training measures of its text and keeps in its recipe; orders of tokens that a graph needs."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import yaml

from sedd_cli.errors import RequestError
from sedd_cli.recipe import dump_recipe, load_recipe, recipe_from
from sedd_cli.recipe.assemble import check_recipe, make_graph
from sedd_cli.recipe.load import override
from sedd_cli.recipe.measure import as_measured, measured

N = 5


class Statistics:
    def counts(self):
        return torch.tensor([4, 3, 2, 1, 0])

    def pairs(self):
        return torch.eye(N, dtype=torch.float64).roll(1, 0) * 7

    def embedding(self, file):
        raise AssertionError("no file is named")


def recipe_of(*changes: str):
    return load_recipe("mini/characters", changes)


def test_what_is_measured_survives_dump_and_load():
    recipe = measured(recipe_of("graph=nearest_neighbour", "graph.neighbours=2"), N, Statistics())
    assert recipe.graph.options["edges"].count(";") == N - 1
    again = recipe_from(yaml.safe_load(dump_recipe(recipe)))
    assert again == recipe
    assert make_graph(again, N) == make_graph(recipe, N)
    assert measured(recipe, N, None) == recipe  # nothing is measured twice


@pytest.mark.parametrize("graph", ["uniform", "gaussian", "hybrid", "nearest_neighbour"])
def test_the_information_of_the_text_is_measured_unless_the_graph_is_absorbing(graph):
    """A tenth, a half and all of it is lost at t = 0.1, 0.5 and 1, from the joint distribution of the frequencies."""
    recipe = measured(recipe_of(f"graph={graph}", "noise=mutual_information"), N, Statistics())
    again = recipe_from(yaml.safe_load(dump_recipe(recipe)))
    assert again == recipe
    made, noise = make_graph(again, N), again.noise.make()
    p0 = torch.tensor([0.4, 0.3, 0.2, 0.1, 0.0], dtype=torch.float64)
    for t in (0.1, 0.5, 1.0):
        joint = torch.matrix_exp(noise.sigma(t) * made.rate_matrix)[:, :N] * p0
        ratio = joint / (joint.sum(1, keepdim=True) * p0)
        information = float(torch.where(joint > 0, joint * ratio.log(), 0.0).sum())
        assert information / float(-torch.xlogy(p0, p0).sum()) == pytest.approx(1 - 0.999 * t, abs=1e-7)
    absorbing = recipe_of("noise=mutual_information")
    assert measured(absorbing, N, Statistics()) == absorbing


def test_a_recipe_that_leaves_them_open_is_that_of_the_run():
    wanted = recipe_of("graph=nearest_neighbour")
    stored = measured(wanted, N, Statistics())
    assert as_measured(wanted, stored) == stored
    others = [recipe_of(), recipe_of("graph=gaussian"), recipe_of("graph=nearest_neighbour", "graph.edges=1;0,2;1;4;3")]
    for other in others:
        assert as_measured(other, stored) == other


@pytest.mark.parametrize(
    ("change", "left"),
    [
        ("data.corpus=b.txt", ()),
        ("data={corpus: b.txt, tokenizer: char}", ()),
        ("data.tokenizer=byte", ()),
        ("data.field=body", ()),
        ("data.detokenizer=wikitext", ()),
        ("graph.neighbours=3", ()),
        ("graph.embedding=e.npy", ()),
        ("noise.eps=1e-4", ("edges",)),
        ("data.hold_out=hash", ("edges", "curve")),
        ("data.windows=false", ("edges", "curve")),
        ("graph.neighbours=2", ("edges", "curve")),
        ("train.steps=7", ("edges", "curve")),
    ],
)
def test_what_was_measured_of_another_text_or_graph_is_measured_again(change, left):
    named = ("graph=nearest_neighbour", "graph.neighbours=2", "noise=mutual_information")
    stored = measured(recipe_of(*named), N, Statistics()).to_data()
    found = recipe_from(override(stored, [change]))
    assert bool(found.graph.options["edges"]) == ("edges" in left)
    assert bool(found.noise.options["curve"]) == ("curve" in left)


def test_edges_that_are_named_are_kept():
    stored = measured(recipe_of("graph=nearest_neighbour", "graph.neighbours=2"), N, Statistics()).to_data()
    found = recipe_from(override(stored, ["graph.neighbours=1", "graph.edges=1;0;1;4;3"]))
    assert found.graph.options["edges"] == "1;0;1;4;3"


def test_ordinary_recipes_are_not_measured():
    recipe = recipe_of()
    assert measured(recipe, N, None) == recipe
    assert as_measured(recipe, recipe) == recipe


@pytest.mark.parametrize("tokenizer", ["gpt2", "bpe:512"])
def test_a_gaussian_over_tokens_without_an_order_is_refused(tokenizer):
    with pytest.raises(RequestError, match=rf"graph: gaussian needs tokens in an order, .*'{tokenizer}' have none"):
        check_recipe(recipe_of("graph=gaussian", "noise=geometric", f"data.tokenizer={tokenizer}"))


def test_the_tokenizer_that_a_corpus_has_by_itself_counts():
    with pytest.raises(RequestError, match="the tokenizer 'gpt2' have none"):
        check_recipe(load_recipe("gpt2_small", ["graph=gaussian", "data.tokenizer=null"]))


@pytest.mark.parametrize("tokenizer", ["char", "byte", "text8"])
def test_characters_and_bytes_have_an_order(tokenizer):
    check_recipe(recipe_of("graph=gaussian", "noise=geometric", f"data.tokenizer={tokenizer}"))


def test_a_graph_too_large_for_the_mutual_information_is_refused_with_numbers():
    changes = ("noise=mutual_information", "data.tokenizer=bpe:1025")
    why = r"noise: mutual_information .* 1,026 × 1,026 on the graph hybrid, .* at most 1,024 states"
    with pytest.raises(RequestError, match=why):
        check_recipe(recipe_of("graph=hybrid", *changes))
    for graph in ("uniform", "absorbing"):
        check_recipe(recipe_of(f"graph={graph}", *changes))


def test_a_text_of_one_token_has_no_mutual_information():
    class Same(Statistics):
        def counts(self):
            return torch.tensor([0, 9, 0, 0, 0])

    with pytest.raises(RequestError, match="noise: mutual_information: the training text holds one token only"):
        measured(recipe_of("graph=uniform", "noise=mutual_information"), N, Same())


def test_an_embedding_is_looked_at_before_any_work(tmp_path):
    np.save(tmp_path / "e.npy", np.zeros((4, 2)))
    changes = ["graph=nearest_neighbour", "noise=geometric", "data.tokenizer=text8"]
    with pytest.raises(RequestError, match=r"e\.npy has 4 rows, the tokenizer text8 27 tokens"):
        check_recipe(recipe_of(*changes, f"graph.embedding={tmp_path / 'e.npy'}"))
    (tmp_path / "f.npy").write_text("1 2 3")
    with pytest.raises(RequestError, match=r"f\.npy is no \.npy file"):
        check_recipe(recipe_of(*changes, f"graph.embedding={tmp_path / 'f.npy'}"))
    (tmp_path / "f.npy").unlink()
    with pytest.raises(RequestError, match=r"f\.npy: no such file"):
        check_recipe(recipe_of(*changes, f"graph.embedding={tmp_path / 'f.npy'}"))
