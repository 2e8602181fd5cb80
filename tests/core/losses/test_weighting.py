"""Weights of the loss over noise levels and positions, and times drawn by importance."""

from __future__ import annotations

import pytest
import torch
from support.toys import N

from sedd_cli.core.graphs import GRAPHS
from sedd_cli.core.losses import OBJECTIVES
from sedd_cli.core.losses.base import ContinuousTime
from sedd_cli.core.losses.d3pm import D3PM
from sedd_cli.core.losses.score_entropy import ScoreEntropy
from sedd_cli.core.losses.weighting import NAMES, check_dynamic
from sedd_cli.core.schedules import SCHEDULES
from sedd_cli.core.score import ScoreModel
from sedd_cli.errors import RequestError
from sedd_cli.models.dit import DiT
from sedd_cli.models.shape import DiTConfig
from sedd_cli.recipe import recipe_from

F64 = {"dtype": torch.float64}
L = 6
CONTINUOUS = [name for name, cls in OBJECTIVES.items() if issubclass(cls, ContinuousTime)]
#: Graphs whose rates between tokens are equal.
SYMMETRIC = ["absorbing", "uniform", "hybrid"]


class Unfused(torch.nn.Module):
    """A network without a linear head to fuse."""

    def __init__(self, net):
        super().__init__()
        self.net = net
        self.hidden, self.head = net.hidden, net.head


def problem(name, fused=True):
    graph = GRAPHS[name](vocab_size=N)
    torch.manual_seed(0)
    net = DiT(DiTConfig(n_blocks=1, hidden_size=8, n_heads=2, cond_dim=4, dropout=0.0, length=L), graph.states).double()
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    model = ScoreModel(net if fused else Unfused(net), graph, SCHEDULES["loglinear"]())
    u = torch.rand(4, L, generator=torch.Generator().manual_seed(1), **F64)
    return net, model, torch.randint(N, (4, L), generator=torch.Generator().manual_seed(2)), u


def gradient(net, found):
    net.zero_grad()
    found.total.backward()
    return torch.cat([p.grad.flatten() for p in net.parameters() if p.grad is not None])


def objective(name, **options):
    return OBJECTIVES[name](0.1, **options)


@pytest.mark.parametrize("name", ["absorbing", "uniform"])
@pytest.mark.parametrize("weighting", ["flat", "min_snr"])
def test_the_gradient_of_a_level_has_the_factor_and_the_logged_loss_has_not(name, weighting):
    net, model, x0, u = problem(name)
    for v in (0.02, 0.3, 0.9):
        levels = torch.full((4,), v, **F64)
        plain = objective("score_entropy").loss(model, x0, levels, u)
        found = objective("score_entropy", weighting=weighting, weight_cap=2.0).loss(model, x0, levels, u)
        sigma, dsigma = model.schedule(0.1 + 0.9 * levels[:1])
        w = float(dsigma / torch.expm1(sigma))
        factor = 1 / w if weighting == "flat" else min(1.0, 2.0 / w)
        torch.testing.assert_close(found.sequences, plain.sequences)
        expected = factor * gradient(net, plain)
        assert float(expected.abs().max()) > 0
        torch.testing.assert_close(gradient(net, found), expected, rtol=1e-6, atol=1e-9)


def test_flat_weighs_every_masked_token_by_one():
    net, model, x0, u = problem("absorbing")
    model = ScoreModel(model.net, model.graph, model.schedule, parametrization="mean")
    v = torch.tensor([0.05, 0.3, 0.6, 0.95], **F64)
    found = objective("masked_cross_entropy", weighting="flat").loss(model, x0, v, u)
    x = model.graph.perturb(x0, model.schedule(0.1 + 0.9 * v)[0], u)
    z = net.head(net.hidden(x, model.schedule(0.1 + 0.9 * v)[0]))
    nats = -z[..., :N].log_softmax(-1).gather(-1, x0[..., None])[..., 0]
    masked = x == model.graph.mask
    assert masked.any()
    assert float(found.total.detach()) == pytest.approx(float(nats[masked].sum().detach()), rel=1e-6)


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("name", SYMMETRIC)
@pytest.mark.parametrize("of", ["score_entropy", "concrete_score"])
def test_dynamic_puts_gidds_weights_in_the_place_of_the_bounds_own(name, of, fused):
    """Position by position: the gradient is that of the bound times wanted / (σ̄′·Q(x,y)/p(x|x0))."""
    net, model, x0, u = problem(name, fused)
    v = torch.tensor([0.05, 0.3, 0.6, 0.95], **F64)
    graph, sigma = model.graph, model.schedule(0.1 + 0.9 * v)[0]
    x = graph.perturb(x0, sigma, u)
    plain = objective(of)
    log_score = graph.log_score(net.head(net.hidden(x, sigma)), sigma, x)
    from sedd_cli.core.losses.concrete_score import concrete_score_error
    from sedd_cli.core.losses.score_entropy import score_entropy

    integrand = {"score_entropy": score_entropy, "concrete_score": concrete_score_error}[of]
    terms = integrand(graph, log_score, sigma, x, x0)
    total = torch.zeros((), **F64)
    for b in range(4):
        for i in range(L):
            rates = graph.rate_into(x[b, i])[:N]
            if not rates.any():
                continue
            rate = float(rates.max())
            p = graph.transition(sigma[b], x0[b, i])
            stayed = float(p[x0[b, i]])
            other = next(token for token in range(N) if token != x0[b, i])
            alpha = stayed - float(p[other])  # noise puts the clean token there as often as another one
            own = min(2.0, ((1 - alpha) / alpha) ** 0.5 / N)
            wanted = 2.0 if int(x[b, i]) == graph.mask else own if x[b, i] == x0[b, i] else 1.0
            total = total + wanted * float(p[x[b, i]]) / rate * terms[b, i]
    net.zero_grad()
    total.backward()
    truth = torch.cat([q.grad.flatten() for q in net.parameters() if q.grad is not None])
    found = objective(of, weighting="dynamic").loss(model, x0, v, u)
    torch.testing.assert_close(
        found.sequences.double(), plain.loss(model, x0, v, u).sequences.double(), rtol=1e-6, atol=1e-9
    )
    torch.testing.assert_close(gradient(net, found), truth, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("of", CONTINUOUS)
@pytest.mark.parametrize("weighting", NAMES)
def test_times_drawn_by_importance_leave_loss_and_gradient_as_they_are_in_the_mean(of, weighting):
    """A fine grid of v in place of draws; the corruption of a time is the same in both."""
    net, model, x0, u = problem("absorbing")
    if OBJECTIVES[of].parametrization == "mean":
        model = ScoreModel(model.net, model.graph, model.schedule, parametrization="mean")
    count = 4000
    grid = (torch.arange(count, **F64) + 0.5) / count
    rows = x0[:1].expand(count, -1), grid, u[:1].expand(count, -1)
    plain, drawn = (objective(of, weighting=weighting, importance=q).loss(model, *rows) for q in (0.0, 0.5))
    assert float(drawn.sequences.mean()) == pytest.approx(float(plain.sequences.mean()), rel=5e-3)
    one, other = gradient(net, plain) / count, gradient(net, drawn) / count
    assert float((one - other).norm() / one.norm()) < 1e-2
    place, spread = objective(of, importance=0.5).placed(grid)
    assert float(place.median()) < 0.3
    assert float(spread.mean()) == pytest.approx(1, rel=1e-3)


def test_the_loss_by_noise_level_is_that_of_its_times():
    from sedd_cli.training.step import LossByTime

    drawn, plain = (LossByTime.zero(torch.device("cpu")) for _ in range(2))
    v = (torch.arange(5000, **F64) + 0.5) / 5000
    place, spread = objective("score_entropy", importance=0.5).placed(v)
    drawn.add(place, (3 + place) * spread, spread)
    plain.add(v, 3 + v)
    torch.testing.assert_close(drawn.nats / drawn.sequences, plain.nats / plain.sequences, rtol=1e-3, atol=0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weighting": "snr"}, "weighting must be one of bound, flat, min_snr, dynamic, found 'snr'"),
        ({"weight_cap": 0.0}, "weight_cap must be positive"),
        ({"importance": 1.0}, r"importance must lie in \[0, 0.9\], found 1.0"),
        ({"importance": -0.1}, "importance must lie"),
    ],
)
def test_impossible_weights_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        OBJECTIVES["score_entropy"](**options)


def test_dynamic_is_refused_where_rates_between_tokens_differ():
    from support.toys import Cyclic

    for name in SYMMETRIC:
        check_dynamic(GRAPHS[name](vocab_size=5))
    with pytest.raises(ValueError, match="dynamic needs equal rates"):
        OBJECTIVES["score_entropy"](weighting="dynamic").check(Cyclic(vocab_size=5))
    with pytest.raises(ValueError, match="dynamic needs a graph that masks all tokens alike"):
        check_dynamic(GRAPHS["state_dependent"](vocab_size=5, power=2.0))


def test_what_minimises_the_bound_is_said_and_old_recipes_mean_the_same():
    made = OBJECTIVES["score_entropy"]
    assert made().direct
    assert made(importance=0.5).direct
    assert not made(weight_power=0.5).direct
    assert not made(weighting="flat").direct
    assert made(weighting="flat", weight_power=0.5).weights == "weighting=flat, weight_power=0.5"
    data = {
        "name": "old", "data": {"corpus": "pydocs"}, "train": {"steps": 1}, "graph": "absorbing", "noise": "loglinear",
        "model": {}, "objective": {"name": "score_entropy", "t_min": 0.001, "weight_power": 0.5},
    }  # fmt: skip
    assert recipe_from(data).objective.make() == made(weight_power=0.5)
    with pytest.raises(RequestError, match=r"objective: weighting must be one of"):
        recipe_from(data | {"objective": {"name": "score_entropy", "weighting": "low"}})


def test_a_loss_is_the_likelihood_s_bound_only_where_its_own_class_says_so():
    assert {name for name, cls in OBJECTIVES.items() if not cls.logs_bound} == {"concrete_score"}

    class Changed(ScoreEntropy):
        """Weighted otherwise."""

    assert ScoreEntropy.logs_bound
    assert D3PM().logs_bound
    assert not D3PM(cross_entropy=0.1).logs_bound
    assert not Changed.logs_bound
