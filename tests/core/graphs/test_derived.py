"""Every closed form of a graph against the form that the base class derives from `rate` and `transition` alone."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
import reference
import torch
from support.toys import base, rate_matrix

from sedd_cli.core.fast import KERNELS, kernels_of
from sedd_cli.core.graphs import GRAPHS, Transition
from sedd_cli.core.losses.score_entropy import score_entropy
from sedd_cli.core.samplers.corrector import corrector_step
from sedd_cli.core.samplers.denoise import decode_step, denoise_step
from sedd_cli.core.samplers.euler import euler_step
from sedd_cli.core.samplers.tweedie import tweedie_step
from sedd_cli.testing.graphs import (
    SIGMAS,
    check_base,
    check_generator,
    check_perturb,
    check_posteriors,
    check_products,
    check_transition,
    derived,
    rows,
)

every_graph = pytest.mark.parametrize("name", GRAPHS)
every_size = pytest.mark.parametrize("N", [2, 3, 7])
every_sigma = pytest.mark.parametrize("sigma", SIGMAS)


def equal(found: torch.Tensor, truth: torch.Tensor, rtol: float = 1e-9) -> None:
    torch.testing.assert_close(found.double(), truth.double(), rtol=rtol, atol=1e-12)


@pytest.mark.parametrize("name", reference.RATES)
@every_size
def test_the_columns_of_the_rate_are_those_of_the_papers_matrix(name, N):
    graph = GRAPHS[name](vocab_size=N)
    torch.testing.assert_close(graph.rate_matrix, rate_matrix(name, N), rtol=1e-14, atol=1e-15)


@every_graph
@every_size
def test_the_rate_is_a_generator(name, N):
    check_generator(GRAPHS[name](vocab_size=N))


@every_graph
@every_size
@every_sigma
def test_the_transition_is_the_matrix_exponential(name, N, sigma):
    check_transition(GRAPHS[name](vocab_size=N), sigma)


@every_graph
@every_size
@every_sigma
def test_rows_products_and_ratios_are_the_dense_ones(name, N, sigma):
    check_products(GRAPHS[name](vocab_size=N), sigma)


@every_graph
@every_size
@every_sigma
def test_mean_scores_posteriors_and_what_scores_can_be_are_the_dense_ones(name, N, sigma):
    check_posteriors(GRAPHS[name](vocab_size=N), sigma)


@every_graph
@every_size
def test_the_base_distribution_is_that_of_infinite_noise(name, N):
    graph = GRAPHS[name](vocab_size=N)
    equal(graph.base(), base(name, N))
    check_base(graph)


@every_graph
@every_size
@every_sigma
def test_perturb_follows_the_transition(name, N, sigma):
    check_perturb(GRAPHS[name](vocab_size=N), sigma)


@pytest.mark.parametrize("name", KERNELS)
@every_size
@every_sigma
def test_kernels_are_the_plain_loss_and_the_plain_steps(name, N, sigma):
    graph = GRAPHS[name](vocab_size=N)
    kernels, (x, x0, level, z) = kernels_of(graph), rows(graph, sigma)
    log_score = graph.log_score(z, level, x)
    equal(kernels.score_entropy(log_score, level, x, x0), score_entropy(graph, log_score, level, x, x0))
    equal(kernels.score_entropy_of(z, level, x, x0), score_entropy(graph, log_score, level, x, x0))
    step = 0.3 * level.clamp(max=1.0)
    same(kernels.euler(log_score, x, step), euler_step(graph, log_score, x, step))
    same(kernels.correct(log_score, x, step), corrector_step(graph, log_score, x, step))
    delta = level.clamp(max=3.0) / 2
    plain = tweedie_step(graph, log_score, x, delta)
    same(kernels.tweedie(log_score, x, delta), plain)
    same(kernels.denoise(log_score, x, delta), denoise_step(graph, log_score, x, delta))
    decoded = decode_step(graph, log_score, x, delta)
    same(kernels.decode(log_score, x, delta), decoded)
    total = log_score[..., : graph.vocab_size].double().exp().sum(-1)
    assert bool((kernels.decode_bound(total, x, delta) >= decoded.move_probability * (1 - 1e-9))[graph.active(x)].all())


def same(found: Transition, plain: Transition) -> None:
    """The same probability of moving, and the same distribution of where to."""
    # on the absorbing graph a first-order probability above 1 is cut, and so is the mass that stays: both are 1
    equal(found.move_probability, plain.move_probability, 1e-8)
    moves = plain.move_probability > 0
    shares = [t.weights / t.weights.sum(-1, keepdim=True) for t in (found, plain)]
    equal(shares[0][moves], shares[1][moves], 1e-8)


@every_graph
def test_a_dense_form_beyond_its_size_is_refused(name):
    graph = derived(GRAPHS[name](vocab_size=5000))
    with pytest.raises(ValueError, match=r"has no closed form here, and a dense matrix of 0\.2 GiB is too large"):
        graph.rate_into(torch.tensor([0]))


@pytest.mark.parametrize(("key", "value"), [("mask_rate", 0.0), ("uniform_rate", -1.0), ("mask_rate", float("inf"))])
def test_rates_of_the_hybrid_graph_are_positive(key, value):
    with pytest.raises(ValueError, match=f"{key} must be positive and finite"):
        GRAPHS["hybrid"](vocab_size=3, **{key: value})


@pytest.mark.parametrize("sigma", [1e-4, 1e-9, 1e-12, 1e-14, 1e-20])
@pytest.mark.parametrize("N", [3, 1000, 50_000])
@pytest.mark.parametrize("sure", [0.0, 20.0, 60.0])
def test_mean_scores_of_the_uniform_graph_keep_their_digits_under_hardly_any_noise(N, sigma, sure):
    """Against fractions: s_y is near 0 where the network is sure that the token has stayed."""
    z = torch.zeros(N, dtype=torch.float64)
    z[0], z[1] = sure, sure - 50.0
    found = GRAPHS["uniform"](vocab_size=N).mean_score(
        z[None], torch.tensor([sigma], dtype=torch.float64), torch.tensor([0])
    )[0]
    p = [Fraction(math.exp(float(one) - float(z.max()))) for one in z[:3]]
    total = p[0] + p[1] + (N - 2) * p[2]
    gone = Fraction(math.expm1(sigma))
    rho = gone / (gone + N)
    for y in (1, 2):
        truth = (p[0] * rho + p[y] / rho + (total - p[0] - p[y])) / total
        assert float(found[y]) == pytest.approx(math.log(truth), rel=1e-12, abs=1e-12)
