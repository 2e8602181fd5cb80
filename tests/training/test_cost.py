"""The expected cost of a recipe, and the costs that the shipped recipes name."""

from __future__ import annotations

import re

import pytest
import torch
from support.toys import Cyclic

from sedd_cli.core.graphs import GRAPHS
from sedd_cli.core.schedules import SCHEDULES
from sedd_cli.models.dit import DiT
from sedd_cli.models.shape import DiTConfig
from sedd_cli.recipe import load_recipe, shipped
from sedd_cli.training import flops
from sedd_cli.training.cost import estimate_cost, too_little_noise
from sedd_cli.training.flops import known_peak

PAPERS = sorted(n for n in set(shipped()) - {"quickstart", "markov"} if not n.startswith("mini/"))
EXPECT = re.compile(
    r"# Expect \(derived\): ([\d.]+) M parameters, (\d+) G tokens, ([\d.]+) GiB a GPU, "
    r"(\d+) hours on 8 × A100 80 GB at 40% of their peak\."
)


@pytest.mark.parametrize("name", PAPERS)
def test_a_shipped_recipe_expects_the_estimated_cost(name):
    line = EXPECT.search(shipped()[name].read_text(encoding="utf-8"))
    parameters, tokens, memory, hours = map(float, line.groups())
    cost = estimate_cost(load_recipe(name)).to_dict()

    def number(key: str) -> float:
        return float(re.search(r"[\d,]+\.?\d*", cost[key])[0].replace(",", ""))

    assert parameters == pytest.approx(number("parameters") / 1e6, abs=0.05)
    assert tokens == pytest.approx(number("tokens in all") / 1e9, abs=0.5)
    assert memory == pytest.approx(number("memory, one process"), abs=0.05)
    assert hours == pytest.approx(number("on the paper's hardware"), abs=0.5)


def test_useful_flops_are_those_torch_counts():
    """Forward and backward of trunk and head, with every position active."""
    from torch.utils.flop_counter import FlopCounterMode

    config = DiTConfig(n_blocks=2, hidden_size=64, n_heads=2, cond_dim=16, dropout=0.0, length=32, attention="plain")
    graph = GRAPHS["uniform"](vocab_size=50)
    net = DiT(config, graph.states)
    x = torch.zeros(3, config.length, dtype=torch.int64)
    with FlopCounterMode(display=False) as counter:
        net(x, torch.ones(3)).sum().backward()
    expected = flops.flops_a_token(config, graph, SCHEDULES["geometric"]()) * x.numel()
    # left out there: the noise level's own two-layer perceptron, once a sequence
    assert expected == pytest.approx(counter.get_total_flops(), rel=0.02)
    assert expected <= counter.get_total_flops()


def test_half_of_the_positions_are_masked_under_the_papers_schedule():
    share = flops.mean_active_share(GRAPHS["absorbing"](vocab_size=50), SCHEDULES["loglinear"]())
    assert share == pytest.approx(0.5, abs=1e-3)
    assert flops.mean_active_share(GRAPHS["uniform"](vocab_size=50), SCHEDULES["geometric"]()) == 1


@pytest.mark.parametrize(
    ("name", "peak"), [("NVIDIA H100 PCIe", 756e12), ("NVIDIA A100-SXM4-80GB", 312e12), ("Abacus", None)]
)
def test_a_known_device_has_a_peak(monkeypatch, name, peak):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: name)
    assert flops.known_peak(torch.device("cuda")) == peak
    assert flops.known_peak(torch.device("cpu")) is None


@pytest.mark.parametrize(
    ("name", "peak"),
    [
        ("NVIDIA L40", 181e12),
        ("NVIDIA L40S", 362e12),
        ("NVIDIA L4", 121e12),
        ("NVIDIA A100-SXM4-40GB", 312e12),
        ("NVIDIA A10", 125e12),
        ("NVIDIA A10G", 70e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA GH200 480GB", 989e12),
        ("NVIDIA RTX A6000", 155e12),
        ("NVIDIA L400", None),
    ],
)
def test_a_peak_is_that_of_the_device_of_this_name(monkeypatch, name, peak):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: name)
    assert known_peak(torch.device("cuda")) == peak


@pytest.mark.parametrize(
    ("graph", "noise", "warned"),
    [
        ("absorbing", "loglinear", False),
        ("hybrid", "loglinear", False),
        ("uniform", "loglinear", False),
        ("uniform", "{name: geometric, sigma_max: 0.5}", True),
        ("gaussian", "loglinear", False),
        ("gaussian", "{name: geometric, sigma_max: 2}", True),
        ("gaussian", "geometric", False),
        ("nearest_neighbour", "geometric", True),
        ("nearest_neighbour", "{name: geometric, sigma_max: 4000}", False),
        ("cyclic", "loglinear", True),
        ("cyclic", "{name: geometric, sigma_max: 4000}", False),
    ],
)
def test_noise_that_ends_short_of_the_base_distribution_is_warned_of(graph, noise, warned, monkeypatch):
    """The warning holds the nats per token of D_KL(p(x_1|x0) ‖ p_base), by the dense matrix exponential."""
    monkeypatch.setattr(GRAPHS, "_classes", {**GRAPHS, "cyclic": Cyclic})
    recipe = load_recipe("quickstart", [f"graph={graph}", f"noise={noise}"])
    made = recipe.graph.make(vocab_size=45)
    warning = too_little_noise(made, recipe.noise.make())
    if not warned:
        assert warning is None
        return
    P = torch.matrix_exp(recipe.noise.make().sigma(1.0) * made.rate_matrix)
    truth = float((P * (45 * P).log()).sum(0).mean())
    assert f"{truth:.2f} nats per token" in warning
    if graph == "uniform":
        assert "choose more noise" in estimate_cost(recipe).to_dict()["warning"]
