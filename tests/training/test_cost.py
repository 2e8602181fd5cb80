"""The expected cost of a recipe, and the costs that the shipped recipes name."""

from __future__ import annotations

import dataclasses
import re

import pytest
import torch
from support.toys import Cyclic

from sedd_cli.core.graphs import GRAPHS
from sedd_cli.core.losses import OBJECTIVES
from sedd_cli.core.schedules import SCHEDULES
from sedd_cli.core.score import ScoreModel
from sedd_cli.errors import RequestError
from sedd_cli.models.dit import DiT
from sedd_cli.models.shape import DiTConfig
from sedd_cli.recipe import load_recipe, shipped
from sedd_cli.recipe.assemble import make_graph, make_net
from sedd_cli.system.distributed import Dist
from sedd_cli.training import cost, flops
from sedd_cli.training.cost import check_memory, count_parameters, estimate_cost, too_little_noise
from sedd_cli.training.durations import in_words
from sedd_cli.training.flops import known_peak
from sedd_cli.training.optim import make_optimizers
from sedd_cli.training.state import LossModule, state_bytes

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
    expected = flops.flops_a_token(config, OBJECTIVES["score_entropy"](), graph, SCHEDULES["geometric"]()) * x.numel()
    # left out there: the noise level's own two-layer perceptron, once a sequence
    assert expected == pytest.approx(counter.get_total_flops(), rel=0.02)
    assert expected <= counter.get_total_flops()


def test_an_objective_with_two_corruptions_costs_two_evaluations():
    words = ["graph=state_dependent", "data.tokenizer=char", "model.n_blocks=2", "train.micro_batch=6"]
    one, two = (load_recipe("quickstart", [*words, f"objective={name}"]) for name in ("d3pm", "genmd4"))
    graph = GRAPHS["state_dependent"](vocab_size=50)
    assert flops.training_flops(two, graph) == 2 * flops.training_flops(one, graph)
    both = dataclasses.replace(one, train=dataclasses.replace(one.train, micro_batch=12))
    assert cost._memory(two, 1000, graph, 6) == cost._memory(both, 1000, graph, 12)


def test_half_of_the_positions_are_masked_under_the_papers_schedule():
    entropy = OBJECTIVES["score_entropy"]()
    share = flops.mean_active_share(entropy, GRAPHS["absorbing"](vocab_size=50), SCHEDULES["loglinear"]())
    assert share == pytest.approx(0.5, abs=1e-3)
    assert flops.mean_active_share(entropy, GRAPHS["uniform"](vocab_size=50), SCHEDULES["geometric"]()) == 1


@pytest.mark.parametrize(
    ("objective", "options", "graph", "noise"),
    [
        ("score_entropy", {}, "absorbing", "geometric"),
        ("score_entropy", {"importance": 0.6}, "absorbing", "loglinear"),
        ("masked_cross_entropy", {"t_min": 0.3}, "absorbing", "loglinear"),
        ("d3pm", {"T": 10}, "absorbing", "geometric"),
        ("d3pm", {}, "uniform", "geometric"),
        ("genmd4", {}, "state_dependent", "geometric"),
        ("autoregressive", {}, "absorbing", "loglinear"),
    ],
)
def test_the_share_of_active_positions_is_that_of_the_corruptions_an_objective_draws(objective, options, graph, noise):
    objective, graph, schedule = OBJECTIVES[objective](**options), GRAPHS[graph](vocab_size=5), SCHEDULES[noise]()
    rows, scored = 2000, []

    class Spy:
        def hidden(self, x, sigma):
            return torch.zeros(*x.shape, 1)

        def head(self, hidden):
            scored.append(len(hidden))
            return hidden.expand(-1, graph.states)

    g = torch.Generator().manual_seed(1)
    x0 = torch.randint(5, (rows, 8), generator=g)
    v = (torch.arange(rows, dtype=torch.float64) + 0.5) / rows
    u = torch.rand(rows, 8 * objective.corruptions, dtype=torch.float64, generator=g)
    objective.loss(ScoreModel(Spy(), graph, schedule, parametrization=objective.parametrization), x0, v, u)
    assert flops.mean_active_share(objective, graph, schedule) == pytest.approx(sum(scored) / u.numel(), abs=0.01)


@pytest.mark.parametrize(
    ("name", "peak"),
    [
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA H800 PCIe", 756e12),
        ("NVIDIA H100 NVL", 835e12),
        ("NVIDIA H200 NVL", 835e12),
        ("NVIDIA H200", 989e12),
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("Abacus", None),
    ],
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


#: 45 tokens in a row.
CHAIN = ";".join(["1", *(f"{i - 1},{i + 1}" for i in range(1, 44)), "43"])


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
        (f"{{name: nearest_neighbour, edges: '{CHAIN}'}}", "geometric", True),
        (f"{{name: nearest_neighbour, edges: '{CHAIN}'}}", "{name: geometric, sigma_max: 4000}", False),
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
    key, _, enough = re.search(r"as noise=(\{name: geometric, (sigma_max): (\d+)\}) has", warning).groups()
    assert too_little_noise(made, SCHEDULES["geometric"](sigma_max=float(enough))) is None
    assert load_recipe("quickstart", [f"noise={key}"]).noise.options["sigma_max"] == float(enough)
    if graph == "uniform":
        assert "choose more noise" in estimate_cost(recipe).to_dict()["warning"]


def test_noise_is_not_judged_by_edges_that_are_still_to_be_measured():
    """Until then neighbours are those by id, and a chain of ids mixes far more slowly than a text's neighbours."""
    graph, noise = GRAPHS["nearest_neighbour"](vocab_size=45), SCHEDULES["geometric"](sigma_max=20.0)
    assert too_little_noise(graph, noise) is None
    assert "choose more noise" in too_little_noise(dataclasses.replace(graph, edges=CHAIN), noise)


ALONE = Dist(0, 1, torch.device("cpu"))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (["model.length=1048576"], r"activations of 18 × 1,048,576 tokens.*smaller model.length"),
        (["train.batch=100000000"], r"activations of 100,000,000 × 128 tokens"),
        (["train.batch=1000000000000", "train.micro_batch=1"], r"choose a smaller train.batch"),
        (["train.batch=1000000000000"], r"activations of 1,000,000,000,000 × 128 tokens"),
        (["model.hidden_size=65536", "model.n_heads=64"], r"choose a smaller model"),
        (["model.n_blocks=65536"], r"choose a smaller model"),
        (["model.hidden_size=16384", "model.n_heads=16"], r"choose a smaller model"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_a_training_beyond_all_memory_is_refused_before_its_text_is_prepared(change, reason, workplace, sedd, tmp_path):
    (tmp_path / "a.txt").write_text("the cat sat on the mat\n" * 50)
    data = f"data={{corpus: {tmp_path / 'a.txt'}, tokenizer: bpe:1000000}}"
    found = sedd("train", "quickstart", data, *change, "--run-dir", tmp_path / "run", "--device", "cpu")
    assert found.code == 2
    assert re.search(reason, found.err), found.err
    assert "GiB" in found.err
    assert not (tmp_path / "run").exists()


def test_no_training_is_refused_that_takes_less(workplace, monkeypatch):
    """The estimate is below what a forward pass keeps for the backward one and the state takes, and not far below."""
    changes = ["model.hidden_size=64", "model.n_blocks=4", "train.precision=fp32", "train.batch=256"]
    recipe = load_recipe(workplace / "tiny.yaml", changes)
    graph = make_graph(recipe, 30)
    net = make_net(recipe, graph, torch.device("cpu")).train()
    parameters = count_parameters(recipe, graph)
    assert parameters == sum(p.numel() for p in net.parameters())
    own, kept = {p.untyped_storage().data_ptr() for p in net.parameters()}, {}

    def keep(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    shape, f64 = (recipe.train.batch, recipe.model.length), torch.float64
    x0, v, u = torch.zeros(shape, dtype=torch.int64), torch.full(shape[:1], 0.99, dtype=f64), torch.rand(shape)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        module = LossModule(net, graph, recipe.noise.make(), recipe.objective.make())
        module(x0, v, u.double()).total.backward()
    taken = sum(size for at, size in kept.items() if at not in own) + 20 * parameters
    monkeypatch.setattr(cost, "free_memory", lambda device: taken)
    check_memory(recipe, 30, ALONE)
    monkeypatch.setattr(cost, "free_memory", lambda device: taken // 4)
    with pytest.raises(RequestError):
        check_memory(recipe, 30, ALONE)


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_the_state_of_a_training_is_counted_by_its_optimizer(optimizer, workplace):
    recipe = load_recipe(workplace / "tiny.yaml", [f"train.optimizer={optimizer}", "model.n_blocks=2"])
    net = make_net(recipe, make_graph(recipe, 30), torch.device("cpu"))
    optimizers = make_optimizers(recipe, net)
    for p in net.parameters():
        p.grad = torch.zeros_like(p)
    for one in optimizers.values():
        one.step()
    moments = [v for one in optimizers.values() for s in one.state.values() for v in s.values() if v.dim()]
    parameters = sum(p.numel() for p in net.parameters())
    assert state_bytes(recipe, parameters) == 4 * (3 * parameters + sum(v.numel() for v in moments))


def test_a_small_recipe_costs_no_hours_in_words():
    assert "less than a second on 8 × A100" in estimate_cost(load_recipe("markov")).to_dict()["on the paper's hardware"]
    assert [in_words(s) for s in (0.0, 1.2, 20, 600, 1e7)] == [
        "less than a second", "1 second", "20 seconds", "10 minutes", "2,777.8 hours",
    ]  # fmt: skip
