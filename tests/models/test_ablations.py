"""Ablations of the paper's network: without adaLN, without time conditioning, with learned positions."""

from __future__ import annotations

import dataclasses
import itertools

import pytest
import torch
from support.jobs import returned

from sedd_cli import load_model
from sedd_cli.checkpoints.export import ExportOptions, export
from sedd_cli.errors import RequestError
from sedd_cli.models.dit import DiT
from sedd_cli.models.shape import DiTConfig
from sedd_cli.recipe import load_recipe
from sedd_cli.tables.definition import load_table, recipe_of
from sedd_cli.training.flops import trunk_flops_a_token
from sedd_cli.training.train import TrainOptions, train

SMALL = DiTConfig(n_blocks=2, hidden_size=16, n_heads=2, cond_dim=8, dropout=0.0, length=10)
EVERY = [
    {"adaln": adaln, "time": time, "positions": positions}
    for adaln, time, positions in itertools.product((True, False), (True, False), ("rotary", "learned"))
]
ROWS = [row.name for row in load_table("ablations").rows if any(one.startswith("model.") for one in row.mini)]


def network(causal=False, **options):
    torch.manual_seed(0)
    net = DiT(dataclasses.replace(SMALL, **options), 5, causal=causal).double()
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return net.eval()


def output(net, x, sigma):
    return net(x, torch.full((len(x),), sigma, dtype=torch.float64))


@pytest.mark.parametrize("options", EVERY)
def test_the_output_depends_on_noise_and_places_as_the_keys_say(options):
    net, x = network(**options), torch.tensor([[1, 2, 3, 4, 0, 1, 2, 3, 4, 0]])
    assert torch.equal(output(net, x, 0.1), output(net, x, 2.0)) == (not options["time"])
    # what a position reads depends on where the others are
    permuted = x[:, torch.tensor([0, 2, 1, 3, 4, 5, 6, 7, 8, 9])]
    assert not torch.allclose(output(net, x, 0.1)[0, 0], output(net, permuted, 0.1)[0, 0])
    names = {name.split(".")[0] for name, _ in net.named_parameters()}
    assert ("position_embed" in names) == (options["positions"] == "learned")
    assert any("adaLN" in name for name, _ in net.named_parameters()) == options["adaln"]
    assert ("sigma_map" in names) == (options["adaln"] or options["time"])
    assert trunk_flops_a_token(net.config) <= trunk_flops_a_token(SMALL)


def test_rotary_positions_are_relative_and_learned_ones_are_not():
    x, shifted = torch.tensor([[1, 1, 1, 1]]), torch.tensor([[1, 1, 1, 1, 1, 1]])
    rotary = output(network(adaln=False, time=False), x, 0.1)
    assert torch.allclose(rotary[0, 0], rotary[0, 3])
    learned = output(network(adaln=False, time=False, positions="learned"), shifted, 0.1)
    assert not torch.allclose(learned[0, 0], learned[0, 3])
    with pytest.raises(ValueError, match="learned positions end at 10, found a text of 11"):
        output(network(positions="learned"), torch.zeros(1, 11, dtype=torch.int64), 0.1)


@pytest.mark.parametrize("options", EVERY)
def test_a_causal_network_continues_from_its_cache(options):
    net, x = network(causal=True, **options), torch.tensor([[1, 2, 3, 4, 0, 1]])
    sigma, past = torch.zeros(1, dtype=torch.float64), None
    whole = net.hidden(x, sigma)
    past = net.kv_cache()
    parts = [net.hidden(x[:, :4], sigma, past), net.hidden(x[:, 4:], sigma, past)]
    torch.testing.assert_close(torch.cat(parts, 1), whole)


def test_the_papers_network_keeps_its_parameters_its_repr_and_its_start():
    assert SMALL.ablated == {}
    assert "adaln" not in repr(SMALL)
    torch.manual_seed(3)
    names = [name for name, _ in DiT(SMALL, 5).named_parameters()]
    assert not any("position_embed" in name or "sigma_add" in name for name in names)
    with pytest.raises(ValueError, match="positions must be one of rotary, learned, found 'none'"):
        dataclasses.replace(SMALL, positions="none")


@pytest.mark.parametrize("row", ROWS)
def test_every_row_of_the_table_trains_samples_and_is_refused_by_the_export(row, workplace, tmp_path):
    table = load_table("ablations")
    name, changes = recipe_of(table, table.row(row), True, 0)
    ablated = load_recipe(name, changes).model.ablated
    assert ablated
    settings = [f"model.{key}={str(value).lower()}" for key, value in ablated.items()]
    recipe = load_recipe(workplace / "tiny.yaml", [*settings, "train.steps=4", "train.save_every=4"])
    done = returned(train(recipe, TrainOptions(tmp_path / "run", "cpu", report=False)))
    assert done.finished
    model = load_model(tmp_path / "run", device="cpu")
    assert model.net.config.ablated == ablated
    assert len(model.sample(1, steps=2, seed=0)[0].text) > 0
    plain = dataclasses.replace(model.recipe.model, adaln=True, positions="rotary", time=True)
    assert f"{next(iter(ablated))} {str(next(iter(ablated.values()))).lower()}" in model.describe()
    assert plain.ablated == {}
    with pytest.raises(RequestError, match=f"SEDD's own network only, found model.{next(iter(ablated))}="):
        returned(export(model, ExportOptions(tmp_path / "out")))
    assert not (tmp_path / "out").exists()


def test_two_ablations_with_equal_weights_have_different_fingerprints(tiny_run):
    model = load_model(tiny_run, device="cpu")
    config = dataclasses.replace(model.net.config, time=False)
    other = DiT(config, model.net.states)
    other.load_state_dict(model.net.state_dict())
    assert dataclasses.replace(model, net=other).fingerprint != model.fingerprint


def test_a_run_of_another_ablation_is_no_start(workplace, tiny_run, tmp_path):
    recipe = load_recipe(workplace / "tiny.yaml", [f"init_from={tiny_run}", "model.adaln=false"])
    with pytest.raises(RequestError, match=r"model\.adaln: True there, False here"):
        returned(train(recipe, TrainOptions(tmp_path / "run", "cpu", report=False)))
