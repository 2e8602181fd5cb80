"""Scores where they are needed equal scores everywhere."""

import dataclasses
import math
from dataclasses import replace
from typing import ClassVar

import pytest
import reference
import torch
from support.toys import rate_matrix, score_model, world

from sedd_cli.core import score as score_module
from sedd_cli.core.fast import KERNELS, kernels_of
from sedd_cli.core.graphs import GRAPHS
from sedd_cli.core.losses.score_entropy import score_entropy, sequence_score_entropy
from sedd_cli.core.registry import Registry
from sedd_cli.core.schedules import SCHEDULES
from sedd_cli.core.score import ScoreModel
from sedd_cli.models.dit import DiT
from sedd_cli.models.shape import DiTConfig

every_graph = pytest.mark.parametrize("name", GRAPHS)


def example(name: str):
    """(model, x0, x, sigma): a batch with every kind of position, at two noise levels."""
    graph, Q, p0 = world(name, L=3)
    model = score_model(graph, SCHEDULES["loglinear"](), reference.wrong_score(p0, Q))
    x0 = torch.tensor([[0, 1, 2], [2, 0, 1], [1, 1, 1]])
    x = torch.tensor([[0, graph.states - 1, 2], [graph.states - 1] * 3, [1, 1, 1]])
    return model, x0, x, torch.tensor([0.3, 1.1, 0.3], dtype=torch.float64)


@every_graph
@pytest.mark.parametrize("block", [2**25, 8, 1])
def test_rows_of_active_positions_are_rows_of_the_plain_form(name, block, monkeypatch):
    monkeypatch.setattr(score_module, "ROW_BLOCK", block)  # in elements: one, two and all rows at a time
    model, _, x, sigma = example(name)
    rows, scores = zip(*model.scored_rows(x, sigma), strict=True)
    batch, position = (torch.cat([getattr(part, key) for part in rows]) for key in ("batch", "position"))
    assert torch.cat([part.x for part in rows]).tolist() == x[batch, position].tolist()
    assert torch.stack([batch, position], -1).tolist() == model.graph.active(x).nonzero().tolist()
    plain = model.log_score(x, sigma)
    torch.testing.assert_close(torch.cat(scores), plain[batch, position], rtol=1e-14, atol=0)
    assert max(len(part.batch) for part in rows) <= max(1, block // model.graph.states)


@every_graph
def test_the_plain_form_is_the_score_that_the_network_gives(name):
    model, _, x, sigma = example(name)
    plain = model.log_score(x, sigma)
    for b in range(3):
        truth = model.net.score(x[b : b + 1], float(sigma[b]))[0].log()
        used = model.graph.active(x[b])
        S = model.graph.vocab_size  # the column of MASK is nobody's business
        torch.testing.assert_close(plain[b][used][:, :S], truth[used][:, :S], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", KERNELS)
@pytest.mark.parametrize("scaled", [True, False])
def test_score_entropy_from_the_network_output_is_that_of_its_scores(name, scaled):
    model, x0, x, sigma = example(name)
    graph = replace(model.graph, scale_by_sigma=scaled) if name == "absorbing" else model.graph
    z = model.net.head(model.hidden(x, sigma))
    plain = score_entropy(graph, graph.log_score(z, sigma, x), sigma, x, x0)
    torch.testing.assert_close(kernels_of(graph).score_entropy_of(z, sigma, x, x0), plain, rtol=1e-12, atol=1e-12)


@every_graph
@pytest.mark.parametrize("block", [2**25, 4])
def test_score_entropy_of_a_batch_sums_positions_one_by_one(name, block, monkeypatch):
    monkeypatch.setattr(score_module, "ROW_BLOCK", block)
    model, x0, x, sigma = example(name)
    Q = rate_matrix(name, model.graph.vocab_size)
    truth = [reference.sequence_loss(model.net.score, Q, float(sigma[b]), x[b], x0[b]) for b in range(3)]
    assert sequence_score_entropy(model, x, sigma, x0).tolist() == pytest.approx(truth, rel=1e-10, abs=1e-12)


def test_a_batch_without_an_active_position_costs_nothing():
    model, _, _, sigma = example("absorbing")
    x = torch.tensor([[0, 1, 2]] * 3)
    assert [len(rows.x) for rows in model.rows(x, sigma)] == [0]
    assert sequence_score_entropy(model, x, sigma, x).tolist() == [0.0, 0.0, 0.0]


def test_a_batch_without_an_active_position_has_gradients_of_zero():
    # a parallel wrapper waits for the gradient of every parameter
    net = DiT(DiTConfig(n_blocks=1, hidden_size=8, n_heads=2, cond_dim=4, dropout=0.0, length=3), 4)
    model = ScoreModel(net, GRAPHS["absorbing"](vocab_size=3), SCHEDULES["loglinear"]())
    x = torch.tensor([[0, 1, 2]])
    sequence_score_entropy(model, x, torch.tensor([0.3]), x).sum().backward()
    assert all(p.grad is not None and not p.grad.any() for p in net.parameters())


def test_the_network_gets_a_sigma_in_range_and_the_graph_the_true_one():
    model, _, x, _ = example("absorbing")
    asked = []

    def listening(x, sigma):
        asked.append(sigma)
        return torch.ones(*x.shape, 4, dtype=torch.float64)

    net = reference.Oracle(listening)  # z = 0 wherever asked
    model = replace(model, net=net, sigma_range=(0.1, 2.0))
    sigma = torch.tensor([0.01, 0.5, 9.0], dtype=torch.float64)
    log_score = model.log_score(torch.full_like(x, 3), sigma)
    assert asked == [0.1, 0.5, 2.0]
    expected = -sigma.expm1().log() - torch.tensor(3, dtype=torch.float64).log()
    torch.testing.assert_close(log_score[:, 0, 0], expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("name", ["loglinear", "geometric"])
def test_a_share_of_masks_has_the_noise_that_moves_so_many_within_the_levels_of_training(name):
    graph, schedule = GRAPHS["absorbing"](vocab_size=3), SCHEDULES[name]()
    model = score_model(graph, schedule, lambda x, sigma: x)
    low, high = schedule.sigma(1e-3), schedule.sigma(1.0)
    middle = 0.5 * (low + high) if high < 2 else 1.0
    shares = [0.0, 1e-9, -math.expm1(-middle), 1.0]
    found = model.sigma_of_share(torch.tensor(shares, dtype=torch.float64))
    torch.testing.assert_close(found, torch.tensor([low, low, middle, high], dtype=torch.float64))


def test_a_registry_maps_names_to_the_classes_that_registered():
    registry = Registry("thing")

    @registry.register
    @dataclasses.dataclass(frozen=True)
    class Thing:
        name: ClassVar[str] = "odd"

    assert dict(registry) == {"odd": Thing}
    assert registry.kind == "thing"
    with pytest.raises(KeyError):
        registry["even"]


@pytest.mark.parametrize(
    ("states", "rows"), [(50_258, 128), (2**23, 1), (2**24, 1), (2**17, 64), (2**18, 32), (3, 2_796_160)]
)
def test_blocks_of_rows_are_whole_tiles_within_the_budget(states, rows):
    model = ScoreModel(None, GRAPHS["uniform"](vocab_size=states), SCHEDULES["loglinear"]())
    assert model.block(torch.device("cpu")) == rows
    assert rows == 1 or rows * states <= score_module.ROW_BLOCK


@every_graph
@pytest.mark.parametrize("sigma", [1e-3, 0.4, 3.0])
@pytest.mark.parametrize("known", [True, False])
def test_the_normaliser_of_the_true_score_is_one_in_the_mean(name, sigma, known):
    """Over x ~ p_σ, enumerated; with MASK at every position. And not of another score, or it would tell nothing."""
    graph, Q, p0 = world(name, L=3)
    model = score_model(
        graph, SCHEDULES["loglinear"](), (reference.exact_score if known else reference.wrong_score)(p0, Q)
    )
    x = reference.sequences(graph.states, 3)
    p = reference.diffuse(p0, Q, sigma).flatten()
    levels = torch.full((len(x),), sigma, dtype=torch.float64)
    total = weight = 0.0
    for rows, log_score in model.scored_rows(x, levels):
        found = graph.normaliser(log_score, rows.sigma)
        assert found.dtype == torch.float64
        if known and graph.masking:
            torch.testing.assert_close(found, torch.ones_like(found), rtol=1e-10, atol=0)
        total += float((p[rows.batch] * found).sum())
        weight += float(p[rows.batch].sum())
    assert (total / weight == pytest.approx(1, rel=1e-10)) is known


@every_graph
@pytest.mark.parametrize("sigma", [1e-3, 0.4, 3.0])
def test_no_distribution_has_a_larger_score_and_one_comes_close(name, sigma):
    graph, Q, _ = world(name, L=2)
    largest = float(graph.largest_score(torch.tensor(sigma, dtype=torch.float64)))
    seen = []
    for sharpness in (0.5, 3.0, 60.0):
        p0 = reference.source(3, 2, len(Q), sharpness=sharpness)
        x = reference.sequences(graph.states, 2)
        scores = reference.exact_score(p0, Q)(x, sigma)
        if graph.only_masks:
            scores = scores[..., : graph.vocab_size]
        seen.append(float(scores[graph.active(x)].log().max()))
    assert max(seen) <= largest + 1e-9
    assert max(seen) > largest - 0.01
