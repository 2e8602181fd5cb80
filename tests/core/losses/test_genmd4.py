"""GenMD4's loss and its gradients, of the network and of the exponents, against enumeration."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

from sedd_cli.core.graphs import GRAPHS
from sedd_cli.core.graphs.state_dependent import StateDependent
from sedd_cli.core.losses import OBJECTIVES
from sedd_cli.core.schedules import SCHEDULES
from sedd_cli.core.score import ScoreModel

N, L, F64 = 3, 2, {"dtype": torch.float64}
X0 = torch.tensor([0, 2])
PATTERNS = torch.tensor(list(itertools.product([False, True], repeat=L)))


class Table(torch.nn.Module):
    """Logits of the clean token [B, L, N + 1], for each x and growing with sigma; and the graph's parameters."""

    def __init__(self):
        super().__init__()
        z = torch.randn(2, (N + 1) ** L, L, N + 1, generator=torch.Generator().manual_seed(0), **F64)
        self.at, self.slope = torch.nn.Parameter(z[0]), torch.nn.Parameter(z[1])
        self.theta = torch.nn.Parameter(torch.tensor([-0.7, 0.1, 0.5], **F64))

    def hidden(self, x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        flat = x[:, 0] * (N + 1) + x[:, 1]
        return self.at[flat] + torch.exp(-sigma)[:, None, None] * self.slope[flat]

    def head(self, hidden: torch.Tensor) -> torch.Tensor:
        return hidden


def nodes() -> list[tuple[float, float]]:
    """(v, weight) of a quadrature over (0, 1), finer where little noise makes losses large."""
    points, weights = np.polynomial.legendre.leggauss(8)
    edges = [0.0, 0.003, 0.02, 0.1, 0.4, 1.0]
    return [
        (0.5 * ((b - a) * p + a + b), 0.5 * (b - a) * w)
        for a, b in itertools.pairwise(edges)
        for p, w in zip(points.tolist(), weights.tolist(), strict=True)
    ]


def exact_loss(net: Table, t_min: float, eps: float = 1e-3) -> torch.Tensor:
    """The paper's loss of X0 as one differentiable number: a quadrature over t, a sum over all corruptions."""
    w, total = net.theta.exp(), torch.zeros((), **F64)
    for v, share in nodes():
        t = t_min + (1 - t_min) * v
        masked_p = t**w  # 1 − α_t(v) for every token
        x = torch.where(PATTERNS, N, X0)
        p = torch.where(PATTERNS, masked_p[X0], 1 - masked_p[X0]).prod(-1)
        sigma = torch.full((len(x),), -math.log1p(-(1 - eps) * t), **F64)
        log_mu = net.hidden(x, sigma)[..., :N].log_softmax(-1)
        nats = -log_mu.gather(-1, X0.expand(len(x), L)[..., None])[..., 0]
        each = w[X0] * nats - w[X0] + log_mu.exp() @ w
        total = total + share * (1 - t_min) / t * (p * (each * PATTERNS).sum(-1)).sum()
    end = t_min**w
    return total + (end * -(end / end.sum()).log())[X0].sum()


def test_the_gradient_estimator_has_the_gradient_of_the_loss_as_its_mean():
    """Its mean over v and over all pairs of corruptions, by enumeration: no draws, so no error but the quadrature's."""
    net, t_min = Table(), 0.01
    objective, schedule = OBJECTIVES["genmd4"](t_min=t_min), SCHEDULES["loglinear"]()
    model = ScoreModel(net, StateDependent(N).learned(net.theta), schedule, parametrization="mean")
    wanted = torch.autograd.grad(exact_loss(net, t_min), list(net.parameters()))
    mean, found, pathwise = 0.0, [torch.zeros_like(p) for p in net.parameters()], torch.zeros(N, **F64)
    for v, share in nodes():
        p = (t_min + (1 - t_min) * v) ** net.theta.exp().detach()[X0]
        weight = torch.where(PATTERNS, p, 1 - p).prod(-1)
        u = torch.where(PATTERNS, p / 2, (1 + p) / 2)
        for one, other in itertools.product(range(len(u)), repeat=2):
            loss = objective.loss(model, X0[None], torch.tensor([v], **F64), torch.cat([u[one], u[other]])[None])
            share_here = share * float(weight[one] * weight[other])
            mean += share_here * float(loss.sequences)
            assert float(loss.total.detach()) == pytest.approx(float(loss.sequences))
            for sum_, part in zip(found, torch.autograd.grad(loss.total, list(net.parameters())), strict=True):
                sum_ += share_here * part
            if one == other:  # there no baseline is left: the part that ignores what the corruption depends on
                pathwise += (
                    share
                    * float(weight[one])
                    * torch.autograd.grad(
                        objective.loss(
                            model, X0[None], torch.tensor([v], **F64), torch.cat([u[one], u[one]])[None]
                        ).total,
                        net.theta,
                    )[0]
                )
    assert mean == pytest.approx(float(exact_loss(net, t_min).detach()), rel=1e-9)
    for mine, truth in zip(found, wanted, strict=True):
        torch.testing.assert_close(mine, truth, rtol=1e-6, atol=1e-8)
    assert float((pathwise - wanted[-1]).abs().max()) > 0.05  # the second part matters here


@pytest.mark.parametrize("learn", [True, False])
def test_with_exponents_of_one_it_is_the_mean_of_masked_cross_entropy_over_two_corruptions(learn):
    """At w = 1 the two other terms cancel, and what is left is MD4's loss, with another end."""
    net = Table()
    graph, schedule = StateDependent(N), SCHEDULES["loglinear"]()
    model = ScoreModel(net, graph, schedule, parametrization="mean")
    plain = ScoreModel(net, GRAPHS["absorbing"](vocab_size=N), schedule, parametrization="mean")
    generator = torch.Generator().manual_seed(1)
    v, u = torch.rand(5, generator=generator, **F64), torch.rand(5, 2 * L, generator=generator, **F64)
    x0, t_min = X0.expand(5, L), 1e-3
    found = OBJECTIVES["genmd4"](learn=learn).loss(model, x0, v, u).sequences
    both = [
        OBJECTIVES["masked_cross_entropy"]().loss(plain, x0, v, u[:, k * L : (k + 1) * L]).sequences for k in (0, 1)
    ]
    end = L * t_min * math.log(N)
    torch.testing.assert_close(found, (1 - t_min) * (both[0] + both[1]).double() / 2 + end, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("power", [0.5, 1.0, 10.0, 100.0])
@pytest.mark.parametrize("noise", ["loglinear", "cosine"])
def test_the_loss_of_even_tokens_is_their_entropy_whatever_the_exponents(power, noise):
    """It is a bound, and here a tight one: large exponents, which mask hardly any token before t = 1, hide nothing."""

    class Even(Table):
        def hidden(self, x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
            return torch.zeros(*x.shape, N + 1, **F64)

    model = ScoreModel(Even(), StateDependent(N, power=power), SCHEDULES[noise](), parametrization="mean")
    draws = 50_000
    at = torch.arange(draws, **F64) + 0.5
    v, u = at / draws, (at[:, None] * torch.tensor([0.6180339887, 0.7548776662], **F64)) % 1  # even in the square
    with torch.no_grad():
        found = OBJECTIVES["genmd4"]().loss(model, torch.zeros(draws, 1, dtype=torch.int64), v, u).sequences
    assert float(found.mean()) == pytest.approx(math.log(N), rel=0.01)


@pytest.mark.parametrize("name", ["absorbing", "uniform", "hybrid"])
def test_a_graph_without_exponents_is_refused(name):
    with pytest.raises(ValueError, match="has nothing to learn: set graph=state_dependent"):
        OBJECTIVES["genmd4"]().check(GRAPHS[name](vocab_size=N))
    with pytest.raises(ValueError, match="t_min"):
        OBJECTIVES["genmd4"](t_min=0.0)
