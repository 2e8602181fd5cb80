"""Every closed form of a graph against the form that the base class derives from `rate` and `transition` alone."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction

import pytest
import reference
import torch
import torch.nn.functional as F
from support.toys import base, rate_matrix

from sedd_cli.core.fast import KERNELS, kernels_of
from sedd_cli.core.graphs import GRAPHS, Graph, Transition
from sedd_cli.core.losses.score_entropy import score_entropy
from sedd_cli.core.samplers.corrector import corrector_step
from sedd_cli.core.samplers.denoise import decode_step, denoise_step
from sedd_cli.core.samplers.euler import euler_step
from sedd_cli.core.samplers.tweedie import tweedie_step

F64 = {"dtype": torch.float64}
SIGMAS = [1e-6, 1e-3, 0.05, 0.7, 4.0, 30.0]
every_graph = pytest.mark.parametrize("name", GRAPHS)
every_size = pytest.mark.parametrize("N", [2, 3, 7])
every_sigma = pytest.mark.parametrize("sigma", SIGMAS)


def derived(graph: Graph) -> Graph:
    """A graph with the same generator that overrides nothing else."""

    class Derived(Graph):
        name = "derived"
        states = graph.states
        mask = graph.mask
        rate = staticmethod(graph.rate)
        log_score = staticmethod(graph.log_score)

    return Derived(graph.vocab_size)


def rows(graph: Graph, sigma: float, seed: int = 0):
    """(x, x0, sigma, z) for every pair that the forward process can produce at an active x."""
    pairs = [
        (x, x0)
        for x, x0 in itertools.product(range(graph.states), range(graph.vocab_size))
        if graph.transition(torch.tensor([0.5], **F64), torch.tensor([x0]))[0, x] > 0
        and bool(graph.active(torch.tensor([x])))
    ]
    x, x0 = torch.tensor(pairs).T
    z = 2 * torch.randn(len(x), graph.states, generator=torch.Generator().manual_seed(seed), **F64)
    return x, x0, torch.full((len(x),), sigma, **F64), z


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
    rate = GRAPHS[name](vocab_size=N).rate_matrix
    assert rate.dtype == torch.float64
    assert float(rate.sum(0).abs().max()) < 1e-14 * max(1.0, float(rate.abs().max()))
    assert bool((rate - rate.diagonal().diag() >= 0).all())


@every_graph
@every_size
@every_sigma
def test_the_transition_is_the_matrix_exponential(name, N, sigma):
    graph = GRAPHS[name](vocab_size=N)
    level = torch.tensor(sigma, **F64)
    truth = reference.transition(graph.rate_matrix, sigma)
    torch.testing.assert_close(graph.transition_matrix(level), truth, rtol=1e-9, atol=1e-13)
    if sigma < 10:  # its inverse: entries of e^sigma
        eye = torch.eye(graph.states, **F64)
        torch.testing.assert_close(graph.transition_matrix(-level) @ truth, eye, rtol=0, atol=1e-9)


@every_graph
@every_size
@every_sigma
def test_rows_products_and_ratios_are_the_dense_ones(name, N, sigma):
    graph = GRAPHS[name](vocab_size=N)
    plain = derived(graph)
    x, x0, level, z = rows(graph, sigma)
    states = torch.arange(graph.states)
    equal(graph.rate_into(states), plain.rate_into(states))
    equal(
        graph.transition_into(level[:1].expand(len(states)), states),
        plain.transition_into(level[:1].expand(len(states)), states),
    )
    equal(graph.propagate(level, z), plain.propagate(level, z))
    if sigma < 10:
        equal(graph.propagate(-level, z), plain.propagate(-level, z))
    used = graph.rate_into(x) > 0
    equal(graph.log_ratio(level, x, x0)[used], plain.log_ratio(level, x, x0)[used])
    equal(graph.reverse_rates(z, x), plain.reverse_rates(z, x))
    assert graph.active(states).tolist() == plain.active(states).tolist()
    equal(graph.active_share(level[:1]), plain.active_share(level[:1]))


@every_graph
@every_size
@every_sigma
def test_mean_scores_posteriors_and_what_scores_can_be_are_the_dense_ones(name, N, sigma):
    graph = GRAPHS[name](vocab_size=N)
    plain = derived(graph)
    x, x0, level, z = rows(graph, sigma)
    tokens = slice(None, N)  # no rate leads from MASK to a token
    equal(graph.mean_score(z, level, x)[:, tokens], plain.mean_score(z, level, x)[:, tokens], 1e-7)
    before = level / 3
    p0 = F.one_hot(x0, N).double()
    equal(graph.posterior(p0, before, level, x), plain.posterior(p0, before, level, x))
    equal(graph.posterior(p0, before, level, x).sum(-1), torch.ones(len(x), **F64))
    torch.testing.assert_close(
        graph.posterior_kl(z, before, level, x, x0), plain.posterior_kl(z, before, level, x, x0), rtol=1e-6, atol=1e-9
    )
    if graph.mask is None:
        torch.testing.assert_close(graph.prior_kl(level, x0), plain.prior_kl(level, x0), rtol=1e-6, atol=1e-14)
    if not graph.masking:  # on absorbing, only MASK counts, where it is 1 at every position
        equal(graph.largest_score(level[0]), plain.largest_score(level[0]), 1e-7)
        equal(graph.normaliser(z, level), plain.normaliser(z, level))


@every_graph
@every_size
def test_the_base_distribution_is_that_of_infinite_noise(name, N):
    graph = GRAPHS[name](vocab_size=N)
    equal(graph.base(), base(name, N))
    u = (torch.arange(1000, **F64) + 0.5)[None] / 1000
    found = torch.bincount(graph.sample_base(u)[0], minlength=graph.states)
    wanted = torch.bincount(derived(graph).sample_base(u)[0], minlength=graph.states)
    assert (found - wanted).abs().max() <= 1


@every_graph
@every_size
@every_sigma
def test_perturb_follows_the_transition(name, N, sigma):
    graph, cells = GRAPHS[name](vocab_size=N), 3000
    u = (torch.arange(cells, **F64) + 0.5)[None] / cells
    for x0 in range(N):
        for one in (graph, derived(graph)):
            x = one.perturb(torch.full((1, cells), x0), torch.tensor([sigma], **F64), u)
            share = torch.bincount(x[0], minlength=graph.states).double() / cells
            truth = graph.transition(torch.tensor([sigma], **F64), torch.tensor([x0]))[0]
            torch.testing.assert_close(share, truth, rtol=0, atol=4 / cells)


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
    found = GRAPHS["uniform"](vocab_size=N).mean_score(z[None], torch.tensor([sigma], **F64), torch.tensor([0]))[0]
    p = [Fraction(math.exp(float(one) - float(z.max()))) for one in z[:3]]
    total = p[0] + p[1] + (N - 2) * p[2]
    gone = Fraction(math.expm1(sigma))
    rho = gone / (gone + N)
    for y in (1, 2):
        truth = (p[0] * rho + p[y] / rho + (total - p[0] - p[y])) / total
        assert float(found[y]) == pytest.approx(math.log(truth), rel=1e-12, abs=1e-12)
