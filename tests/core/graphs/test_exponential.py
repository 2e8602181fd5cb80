"""The transition that the base class makes from `rate` alone: right relative to each entry, at every noise."""

from __future__ import annotations

import math

import mpmath
import pytest
import torch
from support.toys import Cyclic, cyclic_transition

from sedd_cli.core.graphs import GRAPHS, Graph, Transition

F64 = {"dtype": torch.float64}


def by_rate_alone(graph: Graph) -> Graph:
    class ByRate(Graph):
        name = "by rate"
        states = graph.states
        rate = staticmethod(graph.rate)

    return ByRate(graph.vocab_size)


def relative_error(found: torch.Tensor, truth: torch.Tensor) -> float:
    """The largest, over entries that float64 holds; the others have to be as good as 0."""
    held = truth > 1e-290
    assert float(found[~held].abs().max() if bool((~held).any()) else 0) < 1e-289
    return float((found[held] / truth[held] - 1).abs().max())


@pytest.mark.parametrize("name", GRAPHS)
@pytest.mark.parametrize("sigma", [0.0, 1e-9, 1e-3, 0.7, 20.0, 300.0, 5e4, math.inf])
def test_it_is_the_closed_form_of_the_graph(name, sigma):
    graph = GRAPHS[name](vocab_size=5)
    level = torch.tensor(sigma, **F64)
    found = by_rate_alone(graph).transition_matrix(level)
    assert relative_error(found, graph.transition_matrix(level)) < 1e-11


@pytest.mark.parametrize("sigma", [0.0, 1e-5, 1e-3, 0.5, 6.0, 60.0])
def test_probabilities_of_many_moves_are_right_relative_to_themselves(sigma):
    found = Cyclic(vocab_size=50).transition_matrix(torch.tensor(sigma, **F64))
    assert bool((found >= 0).all())
    assert relative_error(found, cyclic_transition(50, sigma)) < 1e-11


@pytest.mark.parametrize("sigma", [1e-4, 0.3, 5.0, 90.0, 700.0])
def test_it_is_the_exponential_in_fifty_digits_of_any_generator(sigma):
    rates = torch.rand(6, 6, generator=torch.Generator().manual_seed(0), **F64) ** 4
    rates[0, 1:5] = 0.0
    rates.fill_diagonal_(0.0)
    Q = rates - torch.diag(rates.sum(0))

    class Any(Graph):
        name = "any"

        def rate(self, x):
            return Q.T[x]

    found = Any(6).transition_matrix(torch.tensor([sigma, -sigma / 50], **F64))
    with mpmath.workdps(50):
        for level, one in zip((sigma, -sigma / 50), found, strict=True):
            exact = mpmath.expm(mpmath.matrix(Q.tolist()) * mpmath.mpf(level))
            truth = torch.tensor([[float(exact[i, j]) for j in range(6)] for i in range(6)], **F64)
            if level > 0:
                assert relative_error(one, truth) < 1e-11
            else:  # relative to the largest: it is an inverse, with both signs
                assert float((one - truth).abs().max() / truth.abs().max()) < 1e-13


def test_noise_levels_states_and_shapes_may_be_mixed():
    graph = Cyclic(vocab_size=4)
    sigma = torch.tensor([[0.0, 1e-3, 2.0], [100.0, math.inf, -0.5]], **F64)
    x = torch.tensor([[0, 1, 2], [3, 2, 1]])
    found = graph.transition(sigma, x)
    for at in [(i, j) for i in range(2) for j in range(3)]:
        alone = graph.transition_matrix(sigma[at])[:, x[at]]
        torch.testing.assert_close(found[at], alone, rtol=1e-13, atol=0)
    assert graph.transition(sigma[:0], x[:0]).shape == (0, 3, 4)


def test_a_slow_graph_reaches_its_limit():
    """Left at rates of 1e-9 and 2, the two states are held in inverse proportion."""

    class Slow(Graph):
        name = "slow"

        def rate(self, x):
            return torch.tensor([[-1e-9, 1e-9], [2.0, -2.0]], **F64)[x]

    found = Slow(2).base()
    torch.testing.assert_close(found, torch.tensor([2.0, 1e-9], **F64) / (2 + 1e-9), rtol=1e-12, atol=0)


def test_a_large_graph_needs_no_matrix_of_states_cubed():
    graph = Cyclic(vocab_size=4096)
    t = torch.linspace(0.1, 6.0, 4096, **F64)
    assert float(graph.active_share(t).mean()) == 1.0


def test_where_no_mass_is_positive_a_position_stays():
    """Rounding can leave no positive mass where a Tweedie step undoes much noise."""
    stays = Transition.of_masses(torch.tensor([[-1e-9, 0.0, -2.0], [0.0, 1.0, 1.0]], **F64), torch.tensor([1, 1]))
    assert stays.move_probability.tolist() == [0.0, 0.5]


@pytest.mark.parametrize("sigma", [1e-6, 0.1, 6.9, 60.0])
def test_the_divergence_from_p_base_is_finite_where_tokens_are_all_but_impossible(sigma):
    graph, N = Cyclic(vocab_size=45), 45
    p = cyclic_transition(N, sigma)[:, 0]
    truth = float(torch.xlogy(p, N * p).sum())
    found = graph.prior_kl(torch.tensor([sigma], **F64), torch.tensor([0]))
    assert found.item() == pytest.approx(truth, rel=1e-9, abs=1e-12)
