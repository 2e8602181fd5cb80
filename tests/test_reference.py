"""Identities that the reference satisfies on its own, so that it does not repeat a mistake of the package."""

import itertools
import math

import pytest
import reference
import torch

GRAPHS = pytest.mark.parametrize("graph", ["absorbing", "uniform"])
SAMPLERS = pytest.mark.parametrize("sampler", ["euler", "tweedie"])
N = 3


@GRAPHS
def test_columns_of_the_rates_sum_to_zero_and_transitions_are_distributions(graph):
    Q = reference.rate_matrix(graph, N)
    P = reference.transition(Q, 0.7)
    one = torch.ones(len(Q), dtype=torch.float64)
    torch.testing.assert_close(Q.sum(0), 0 * one, rtol=0, atol=1e-15)
    torch.testing.assert_close(P.sum(0), one, rtol=1e-14, atol=0)
    assert P.min() >= 0
    keep = math.exp(-0.7)
    assert float(P[0, 0]) == pytest.approx(keep if graph == "absorbing" else keep + (1 - keep) / N, rel=1e-14)


@GRAPHS
def test_score_entropy_integrates_to_the_decrease_of_information(graph):
    """The identity behind the likelihood bound."""
    Q = reference.rate_matrix(graph, N)
    p0, x0 = reference.source(N, 2, len(Q)), torch.tensor([1, 2])
    decrease = reference.information(p0, Q, x0, 0.05) - reference.information(p0, Q, x0, 3.0)
    assert reference.loss_integral(reference.exact_score(p0, Q), Q, x0, 0.05, 3.0, nodes=24) == pytest.approx(
        decrease, rel=1e-9
    )
    nll = float(reference.nll(p0, x0[None]))
    assert reference.information(p0, Q, x0, 0.0) == pytest.approx(nll, rel=1e-12)


@GRAPHS
def test_the_exact_score_is_the_ratio_of_each_pair_of_neighbours(graph):
    Q = reference.rate_matrix(graph, N)
    S, p0 = len(Q), reference.source(N, 3, len(Q))
    p = reference.diffuse(p0, Q, 0.4)
    x = reference.sequences(S, 3)
    s = reference.exact_score(p0, Q)(x, 0.4)
    for row, i, y in itertools.product(range(0, len(x), 5), range(3), range(S)):
        neighbour = x[row].tolist()
        neighbour[i] = y
        assert float(s[row, i, y]) == pytest.approx(float(p[tuple(neighbour)] / p[tuple(x[row])]), rel=1e-12)


@GRAPHS
def test_the_reverse_process_with_the_exact_score_recovers_the_marginals(graph):
    Q = reference.rate_matrix(graph, N)
    p0 = reference.source(N, 2, len(Q))
    start = reference.diffuse(p0, Q, 2.0).flatten()
    p = reference.reverse_process(reference.exact_score(p0, Q), Q, start, 2.0, 0.1, L=2)
    # rates constant within each of 400 cells of log sigma: h² = 6e-5
    torch.testing.assert_close(p, reference.diffuse(p0, Q, 0.1).flatten(), rtol=0, atol=1e-5)


@GRAPHS
@SAMPLERS
def test_more_steps_bring_the_chain_closer_to_the_data(graph, sampler):
    Q = reference.rate_matrix(graph, N)
    p0 = reference.source(N, 2, len(Q))
    start, mask = reference.base(graph, N), N if graph == "absorbing" else None
    score = reference.exact_score(p0, Q)
    distance = [
        float((reference.chain(sampler, score, Q, start, reference.loglinear, n, 2, mask) - p0.flatten()).abs().sum())
        for n in (4, 16, 64)
    ]
    assert all(b < 0.6 * a for a, b in itertools.pairwise(distance))


def test_a_chain_with_every_position_given_returns_the_given_tokens():
    Q = reference.rate_matrix("absorbing", N)
    p0 = reference.source(N, 2, 4)
    p = reference.chain(
        "tweedie",
        reference.exact_score(p0, Q),
        Q,
        reference.base("absorbing", N),
        reference.loglinear,
        3,
        2,
        N,
        {0: 2, 1: 1},
    )
    assert float(p.reshape(4, 4)[2, 1]) == pytest.approx(1, abs=1e-12)
