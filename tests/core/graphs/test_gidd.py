"""GIDD's process: its parts against the process's own equations, and a whole model of it against enumeration."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from scipy.stats import chisquare
from support.toys import ALL

from sedd_cli.core.bounds import rigorous_bound
from sedd_cli.core.conditioning import Conditioning
from sedd_cli.core.graphs import exponential
from sedd_cli.core.graphs.gidd import Gidd, Mixing, Mixture, gidd_process
from sedd_cli.core.random import SAMPLER, Stream
from sedd_cli.core.samplers import SAMPLERS
from sedd_cli.core.score import ScoreModel

N = 3
every_version = pytest.mark.parametrize("first_version", [False, True])
SIGMA = torch.tensor([1e-6, 1e-3, 0.05, 0.7, 4.0, 9.0], dtype=torch.float64)


def marginals(mixing: Mixing, t: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """α, the probability of MASK and that of one uniform token, as the paper and its code spell them."""
    M, p = mixing.reached, mixing.p_uniform
    if mixing.first_version:
        c = (t * (1 - t)).sqrt() / (1 + (1 - p) / p * (M + 1) / 2)
        C = 1 + (M - 1) * c
        return (1 - t - c) / C, t / C, c / C
    c = (t * (1 - t)).sqrt() * 2 * p / (1 - p)
    return (1 - t) / (1 + c), t / (1 + c), c / (1 + c) / M


@every_version
@pytest.mark.parametrize("p_uniform", [0.1, 0.2, 0.7])
def test_the_schedule_and_the_distribution_of_a_noisy_token_are_those_of_the_equations(p_uniform, first_version):
    graph, schedule = gidd_process(30, Mixing(p_uniform, 30, first_version), 0.05)
    t = torch.tensor([0.06, 0.1, 0.3, 0.5, 0.9, 0.94], dtype=torch.float64, requires_grad=True)
    alpha, mask, token = marginals(graph.mixing, t)
    sigma, dsigma = schedule(t)
    torch.testing.assert_close(sigma, -alpha.log())
    torch.testing.assert_close(dsigma, torch.autograd.grad(sigma.sum(), t, retain_graph=True)[0])
    torch.testing.assert_close(schedule.t(sigma), t, atol=1e-9, rtol=1e-9)
    p = graph.transition(sigma.detach(), torch.ones(6, dtype=torch.int64))
    expected = torch.stack([token, alpha + token, *[token] * 28, mask], -1).detach()
    torch.testing.assert_close(p, expected, atol=1e-9, rtol=1e-9)
    # dm/dt = (the rate to MASK − m)·dσ̄/dt
    slope = torch.autograd.grad(mask.sum(), t)[0]
    torch.testing.assert_close((graph.mixing.mask_rate(sigma) - mask) * dsigma, slope, atol=1e-9, rtol=1e-7)


def test_without_uniform_noise_it_is_the_absorbing_process_with_alpha_1_minus_t():
    graph, schedule = gidd_process(N, Mixing(0.0, N))
    t = torch.tensor([0.01, 0.5, 0.99], dtype=torch.float64)
    torch.testing.assert_close(schedule(t)[0], -torch.log1p(-t))
    torch.testing.assert_close(graph.mixing.mask(schedule(t)[0]), t)


@every_version
def test_steps_compose_and_their_rates_are_derivatives(first_version):
    graph = Gidd(N, Mixing(0.2, N, first_version))
    x = torch.arange(N + 1)
    for s, t in itertools.combinations(SIGMA.tolist(), 2):
        s, t = (torch.tensor(sigma, dtype=torch.float64) for sigma in (s, t))
        step = graph.between(s, t).transition_matrix(t - s)
        since = [graph.between(torch.zeros_like(s), end).transition_matrix(end) for end in (s, t)]
        torch.testing.assert_close(step @ since[0], since[1], atol=1e-12, rtol=1e-9)
        near = graph.between(s, s + 1e-5).transition_matrix(torch.tensor(1e-5).double())
        slope = (near - torch.eye(N + 1, dtype=torch.float64)) / 1e-5
        if s > 1e-3:
            torch.testing.assert_close(graph.between(s, s).rate(x).T, slope, atol=2e-3, rtol=1e-3)


@pytest.mark.parametrize("reached", [2, 3])
def test_a_mixture_is_the_exponential_of_its_rates(reached):
    graph = Mixture(N, reached, torch.tensor(0.3, dtype=torch.float64))
    x, values = torch.arange(N + 1), torch.rand(2, N + 1, generator=torch.Generator().manual_seed(0)).double()
    Q = graph.rate(x).T
    assert torch.allclose(Q.sum(0), torch.zeros(N + 1).double())
    torch.testing.assert_close(graph.rate_into(x), Q - Q.diag().diag())
    for sigma in SIGMA:
        P = exponential.columns(Q, sigma.expand(N + 1), x).T
        torch.testing.assert_close(graph.transition_matrix(sigma), P)
        torch.testing.assert_close(graph.transition_into(sigma.expand(N + 1), x), P)
        torch.testing.assert_close(graph.propagate(sigma.expand(2), values), values @ P.T)


# A model of two tokens with exact outputs: p(x0 at i | x at the other position)

L = 2


class LeaveOneOut(torch.nn.Module):
    """log p(x0_i | x_j, j ≠ i) for a distribution of two tokens, as a network's outputs [B, L, N + 1]."""

    def __init__(self, p0: torch.Tensor, graph: Gidd):
        super().__init__()
        self.p0, self.graph = p0, graph

    def hidden(self, x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        found = []
        for i in range(L):
            seen = self.graph.transition_into(sigma, x[:, 1 - i])[:, :N]  # p(x_j | x0_j)
            joint = self.p0 if i == 0 else self.p0.T
            found.append(seen @ joint.T)
        return F.pad(torch.stack(found, 1).log(), (0, 1))

    def head(self, hidden: torch.Tensor) -> torch.Tensor:
        return hidden


def exact_model(p_uniform: float = 0.2) -> tuple[ScoreModel, torch.Tensor]:
    graph, schedule = gidd_process(N, Mixing(p_uniform, N))
    p0 = torch.rand(N, N, generator=torch.Generator().manual_seed(3), dtype=torch.float64) ** 2 + 0.1
    p0 = p0 / p0.sum()
    return ScoreModel(LeaveOneOut(p0, graph), graph, schedule, parametrization="plug_in"), p0


def test_outputs_in_the_place_of_the_clean_token_give_the_true_score():
    model, p0 = exact_model()
    for sigma in (0.05, 0.7, 3.0):
        level = torch.tensor([sigma], dtype=torch.float64)
        P = model.graph.transition_matrix(level[0])[:, :N]
        p = P @ p0 @ P.T  # of two noisy tokens
        for x in itertools.product(range(N + 1), repeat=L):
            score = model.log_score(torch.tensor([x]), level)[0].exp()
            torch.testing.assert_close(score[0], p[:, x[1]] / p[x], atol=1e-9, rtol=1e-9)
            torch.testing.assert_close(score[1], p[x[0]] / p[x], atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("name", ["tweedie", *["euler"] * ALL])  # which takes a thousand steps
def test_samples_follow_the_distribution(name):
    model, p0 = exact_model()
    draws = 4000
    given = Conditioning(torch.zeros(draws, L, dtype=torch.bool), torch.zeros(draws, L, dtype=torch.int64))
    sampler = SAMPLERS[name](steps={"tweedie": 64, "euler": 1000}[name])
    *_, last = sampler.run(model, given, 1, torch.arange(draws))
    seen = torch.bincount(last.x @ torch.tensor([N, 1]), minlength=N * N)
    assert int(last.x.max()) < N
    assert chisquare(seen.double(), p0.flatten() * draws).pvalue > 1e-4


def test_the_bound_is_tight_for_exact_outputs():
    model, p0 = exact_model()
    draws = 20_000
    stream = Stream(5, SAMPLER, torch.arange(draws))
    u, u_end = stream.uniforms(0, L)
    v = (torch.arange(draws, dtype=torch.float64) + stream.uniforms(1, 1)[0][:, 0]) / draws
    for x0 in ((0, 0), (1, 2), (2, 1)):
        found = rigorous_bound(model, torch.tensor([x0]).expand(draws, L), v, u, u_end)
        error = float(found.std()) / math.sqrt(draws)
        exact = -math.log(float(p0[x0]))
        # what noise is left at the end of the grid, 0.2 % of the tokens, is decoded position by position
        assert abs(float(found.mean()) - exact) < 4 * error + 0.02
