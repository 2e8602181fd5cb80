"""Bounds on -log p0(x0), against enumeration: what is exact, what is an upper bound, what the paper leaves out."""

import itertools
import math
from functools import partial

import numpy as np
import pytest
import reference
import torch
from support.toys import ALL, KINDS, N, base, every_kind_of_graph, every_noise, noisy, score_model, world

from sedd_cli.core import bounds, placement
from sedd_cli.core.bounds import (
    T_MIN,
    both_bounds,
    corrupted,
    end_terms,
    paper_bound,
    rigorous_bound,
    stratified,
)
from sedd_cli.core.count_form import COUNT_POWER, count_draw
from sedd_cli.core.graphs import GRAPHS
from sedd_cli.core.losses import OBJECTIVES
from sedd_cli.core.samplers.grids import T_END
from sedd_cli.core.schedules import SCHEDULES

every_graph = pytest.mark.parametrize("name", GRAPHS)
F64 = {"dtype": torch.float64}


def gauss(edges: list[float], nodes: int = 20) -> list[tuple[float, float]]:
    """(point, weight) of Gauss-Legendre on each piece between the edges."""
    points, weights = np.polynomial.legendre.leggauss(nodes)
    return [
        (0.5 * (high - low) * p + 0.5 * (high + low), 0.5 * (high - low) * w)
        for low, high in itertools.pairwise(edges)
        for p, w in zip(points.tolist(), weights.tolist(), strict=True)
    ]


def mean_over_noise(draw, graph, Q, x0, sigma_of, edges) -> float:
    """The expectation of draw(x0 [M, L], v [M], u [M, L]) over v uniform on its range and every corruption."""
    v, u, weight = [], [], []
    for point, share in gauss(edges):
        rows, p = noisy(graph, Q, x0, sigma_of(point))
        v.append(torch.full((len(rows),), point, **F64))
        u.append(rows)
        weight.append(share * p)
    v, u, weight = torch.cat(v), torch.cat(u), torch.cat(weight)
    return float((draw(x0.expand(len(v), -1), v, u).double() * weight).sum())


def paper_mean(model, Q, x0) -> float:
    draw = partial(paper_bound, model)
    return mean_over_noise(
        draw,
        model.graph,
        Q,
        x0,
        lambda v: model.schedule.sigma(T_MIN + (1 - T_MIN) * v),
        [0, 0.01, 0.1, 0.5, 0.8, 0.97, 1],
    )


def ends(model) -> tuple[float, float]:
    """The noise levels between which samplers run."""
    return model.schedule.sigma(T_END), model.schedule.sigma(1.0)


def pinned(model):
    """What samplers start from on graphs with MASK: MASK at sigma(1)."""
    return None if model.graph.mask is None else (model.schedule.sigma(1.0), model.graph.mask)


def corruptions(model, Q, x0, sigma: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Uniforms u [M, L] for which `corrupted` returns each possible x of x0 [L], and the probabilities of those [M]."""
    P = reference.corruption(Q, sigma, pinned(model))
    if model.graph.mask is None:
        return noisy(model.graph, Q, x0, sigma)
    middles = P.cumsum(0) - P / 2
    rows = list(itertools.product(range(len(Q)), repeat=len(x0)))
    u = torch.stack([torch.stack([middles[x, x0[i]] for i, x in enumerate(row)]) for row in rows])
    weight = torch.stack([torch.stack([P[x, x0[i]] for i, x in enumerate(row)]).prod() for row in rows])
    u, weight, rows = u[weight > 0], weight[weight > 0], torch.tensor(rows)[weight > 0]
    made = corrupted(model, x0.expand(len(u), -1), torch.full((len(u),), sigma, **F64), u)
    assert torch.equal(made, rows)
    return u, weight


def end_mean(model, Q, x0) -> float:
    """The expectation of the end terms over the corruption at the end of sampling."""
    u, weight = corruptions(model, Q, x0, ends(model)[0])
    return float((end_terms(model, x0.expand(len(u), -1), u).double() * weight).sum())


def integral_mean(model, Q, x0, nodes: int = 8) -> float:
    """The expectation of the rigorous bound without its end terms, over every draw it can make."""

    def draw(x0, v, u):
        half = torch.full_like(u, 0.5)
        bound = rigorous_bound(model, x0, v, u, half, count=model.graph.masking)
        return bound - end_terms(model, x0, half)

    if model.graph.masking:
        return mean_over_counts(draw, model, x0)
    total, cells = 0.0, placement.table(*ends(model), len(x0))[1].tolist()
    for v, share in gauss(cells, nodes):
        sigma = float(placement.placed_sigma(torch.tensor([v], **F64), *ends(model), len(x0))[0])
        u, weight = corruptions(model, Q, x0, sigma)
        values = draw(x0.expand(len(u), -1), torch.full((len(u),), v, **F64), u).double()
        total += share * float((values * weight).sum())
    return total


@pytest.fixture(autouse=True)
def _coarse_cells(monkeypatch):
    """Few cells, so that a quadrature in each is quick; what is measured does not depend on them."""
    monkeypatch.setattr(placement, "CELLS", 16)


def mean_over_counts(draw, model, x0) -> float:
    """The expectation of draw(x0 [M, L], v [M], u [M, L]) in the count form: k masks at every subset,
    lambda ~ Beta(k, L-k+1), split where the told sigma is clamped."""
    L, v, u, weight = len(x0), [], [], []
    last, first, full = (-math.expm1(-model.schedule.sigma(t)) for t in (T_END, T_MIN, 1.0))
    edges = sorted({0.0, last, last / full, first, full, 1.0})
    chance = np.arange(1, L + 1) ** -COUNT_POWER / (np.arange(1, L + 1) ** -COUNT_POWER).sum()
    for k in range(1, L + 1):
        for subset, (lam, share) in itertools.product(itertools.combinations(range(L), k), gauss(edges)):
            row = [(1 + lam) / 2] * L
            for rank, i in enumerate(subset):
                row[i] = lam * (1 - 0.1 * rank)
            density = k * math.comb(L, k) * lam ** (k - 1) * (1 - lam) ** (L - k)
            v.append(chance[:k].sum() - chance[k - 1] / 2)
            u.append(row)
            weight.append(share * density * chance[k - 1] / math.comb(L, k))
    v, u, weight = (torch.tensor(values, **F64) for values in (v, u, weight))
    return float((draw(x0.expand(len(v), -1), v, u).double() * weight).sum())


def rigorous_mean(model, Q, x0, nodes: int = 8) -> float:
    return integral_mean(model, Q, x0, nodes) + end_mean(model, Q, x0)


def loss_integral(model, score, Q, x0, *levels: float) -> float:
    """The integral of the expected loss, over pieces of the noise, by the reference alone."""
    return sum(reference.loss_integral(score, Q, x0, a, b, pinned=pinned(model)) for a, b in itertools.pairwise(levels))


X0 = torch.tensor([[0, 1, 2], [2, 2, 0]])


@every_graph
@every_noise
@pytest.mark.parametrize("x0", X0, ids=str)
def test_with_the_exact_score_the_paper_protocol_measures_the_information_between_its_ends(name, noise, x0):
    """Its known gap: what noise at t_min has already hidden, and what noise at 1 has not."""
    graph, Q, p0 = world(name, L=3)
    paper = (1 - T_MIN) * paper_mean(score_model(graph, noise, reference.exact_score(p0, Q)), Q, x0)
    low, high = (reference.information(p0, Q, x0, noise.sigma(t)) for t in (T_MIN, 1.0))
    rel = 1e-8 if graph.masking or graph.mask is None else 1e-6  # quadrature, 20 nodes a piece; hybrid is less smooth
    assert paper == pytest.approx(low - high, rel=rel)
    nll = float(reference.nll(p0, x0[None]))
    assert paper < nll
    assert nll - paper == pytest.approx((nll - low) + high, rel=1e3 * rel)


@every_noise
@pytest.mark.parametrize("x0", X0, ids=str)
def test_with_the_exact_score_the_count_form_is_the_negative_log_likelihood(noise, x0):
    graph, Q, p0 = world("absorbing", L=3)
    model = score_model(graph, noise, reference.exact_score(p0, Q))
    # lambda runs over polynomials of degree 2: the quadrature is exact. Two masks that are left at T_END are decoded at
    # once, as if they were independent
    assert rigorous_mean(model, Q, x0) == pytest.approx(float(reference.nll(p0, x0[None])), abs=1e-7)


@pytest.mark.parametrize("name", ["absorbing", "uniform"])
@every_noise
@pytest.mark.parametrize("t_min", [T_MIN, 0.2])
def test_draws_that_are_placed_leave_the_papers_estimate_as_it_is(name, noise, t_min):
    graph, Q, p0 = world(name, L=2)
    model, x0 = score_model(graph, noise, reference.wrong_score(p0, Q)), X0[0, :2]
    low, high = noise.sigma(t_min), noise.sigma(1.0)

    def draw(x0, v, u):
        return paper_bound(model, x0, v, u, t_min=t_min, placed=True)

    def level(v):
        return float(placement.placed_sigma(torch.tensor([v], **F64), low, high, 2)[0])

    found = mean_over_noise(draw, graph, Q, x0, level, placement.table(low, high, 2)[1].tolist())
    levels = np.geomspace(low, high, 4).tolist()
    score = reference.wrong_score(p0, Q)
    truth = sum(reference.loss_integral(score, Q, x0, a, b) for a, b in itertools.pairwise(levels))
    assert found == pytest.approx(truth / (1 - t_min), rel=1e-6)


COST = torch.tensor([0.3, 2.0, 5.0], **F64)


@every_noise
def test_the_count_form_has_the_expectation_of_the_form_in_time(noise):
    """Of both bounds, with and without a control variate, for a wrong score that sees sigma."""
    graph, Q, p0 = world("absorbing", L=3)
    model, x0 = score_model(graph, noise, reference.wrong_score(p0, Q)), X0[0]
    cost = COST[x0]
    for control in (None, cost):

        def paper(x0, v, u, control=control):
            return paper_bound(model, x0, v, u, count=True, cost=None if control is None else control.expand_as(x0))

        # lambda beyond the ends counts nothing, and the quadrature is split there: polynomials of degree 2 are exact
        assert mean_over_counts(paper, model, x0) == pytest.approx(paper_mean(model, Q, x0), rel=1e-7)

        def rigorous(x0, v, u, control=control):
            cost = None if control is None else control.expand_as(x0)
            return rigorous_bound(model, x0, v, u, torch.full_like(u, 0.5), count=True, cost=cost)

        assert mean_over_counts(rigorous, model, x0) == pytest.approx(integral_mean(model, Q, x0), rel=1e-10)


@every_noise
def test_by_time_the_rigorous_bound_is_the_same(noise):
    graph, Q, p0 = world("absorbing", L=3)
    model, x0 = score_model(graph, noise, reference.wrong_score(p0, Q)), X0[0]

    def by_time(x0, v, u):
        return rigorous_bound(model, x0, v, u, torch.full_like(u, 0.5))

    def level(v):
        lam = float(placement.placed_lambda(torch.tensor(v, **F64), 3)[0])
        return -math.log1p(-lam)

    # split where the noise reaches T_END
    a, full = 2 / (2 + math.sqrt(3)), -math.expm1(-ends(model)[1])
    lam = -math.expm1(-ends(model)[0]) / full
    edges = [0.0, (1 - a) * lam + a * math.sqrt(lam), 0.1, 0.5, 0.9, 1.0]
    found = mean_over_noise(by_time, graph, Q, x0, level, edges)
    assert found == pytest.approx(integral_mean(model, Q, x0), rel=1e-7)


@every_noise
@pytest.mark.parametrize("most_ratio", [10.0, 0.0], ids=["one evaluation", "two evaluations"])
def test_both_bounds_at_once_are_each_by_itself(noise, most_ratio, monkeypatch):
    monkeypatch.setattr(bounds, "MOST_RATIO", most_ratio)
    graph, Q, p0 = world("absorbing", L=3)
    model = score_model(graph, noise, reference.wrong_score(p0, Q))
    generator = torch.Generator().manual_seed(4)
    v, u = torch.rand(40, generator=generator, **F64), torch.rand(40, 3, generator=generator, **F64)
    u[0] = 1e-9 * torch.arange(1, 4)  # less noise than the paper's integral reaches
    u_end, x0 = u.clone(), X0[0].expand(40, -1)
    u_end[1] = 1 - 1e-12  # masks that are left at the end
    assert float(end_terms(model, x0, u_end)[1]) > 0
    for cost in (None, COST[x0]):
        rigorous, paper = both_bounds(model, x0, v, u, u_end, cost)
        assert torch.equal(rigorous, rigorous_bound(model, x0, v, u, u_end, True, cost))
        assert torch.equal(paper, paper_bound(model, x0, v, u, count=True, cost=cost))

    def expected(x0, v, u):
        return both_bounds(model, x0, v, u, torch.full_like(u, 0.5), COST[x0])[0]

    assert mean_over_counts(expected, model, X0[0]) == pytest.approx(integral_mean(model, Q, X0[0]), rel=1e-9)


def test_a_control_variate_of_the_right_cost_leaves_no_noise():
    """If every token's loss is its cost, whatever is masked, the estimate does not scatter."""
    graph = GRAPHS["absorbing"](vocab_size=N)
    p = torch.tensor([0.2, 0.3, 0.5], **F64)

    def score(x, sigma):
        share = torch.cat([p, torch.zeros(1, **F64)]) / math.expm1(sigma)
        return torch.where((x == N)[..., None], share, torch.ones(N + 1, **F64))

    model = score_model(graph, SCHEDULES["loglinear"](), score)
    generator = torch.Generator().manual_seed(0)
    v, u = torch.rand(50, generator=generator, **F64), torch.rand(50, 3, generator=generator, **F64)
    x0 = X0[0].expand(50, -1)
    bare, controlled = (rigorous_bound(model, x0, v, u, u, True, cost) for cost in (None, -p.log()[x0]))
    assert float(bare.std()) > 0.1
    # nothing is left to decode in these draws; what they leave out is the share of the noise below T_END
    low, high = (-math.expm1(-sigma) for sigma in ends(model))
    cost = (1 - low / high) * float(-p.log()[X0[0]].sum())
    assert controlled.tolist() == pytest.approx([cost] * 50, rel=1e-12)


@every_noise
def test_for_a_wrong_score_that_sees_sigma_the_count_form_is_the_integral_over_the_noise_of_sampling(noise):
    graph, Q, p0 = world("absorbing", L=3)
    score = reference.wrong_score(p0, Q)
    model, x0 = score_model(graph, noise, score), X0[0]
    low, high = ends(model)
    integral = loss_integral(model, score, Q, x0, low, 1e-2, 1.0, high)
    # the quadrature in log sigma gives 1e-8
    assert integral_mean(model, Q, x0) == pytest.approx(integral, rel=1e-8)


@pytest.mark.parametrize("x0", X0, ids=str)
def test_with_the_exact_score_the_uniform_bound_is_nearly_the_negative_log_likelihood(x0):
    graph, Q, p0 = world("uniform", L=3)
    noise = SCHEDULES["geometric"](sigma_min=1e-5, sigma_max=20.0)
    bound = rigorous_mean(score_model(graph, noise, reference.exact_score(p0, Q)), Q, x0)
    # the decoder takes positions one by one at sigma = 1e-5, right to first order in sigma and no further
    assert bound == pytest.approx(float(reference.nll(p0, x0[None])), abs=1e-7)


@pytest.mark.parametrize("name", [name for name in KINDS if not GRAPHS[name](vocab_size=N).masking])
@pytest.mark.parametrize(
    "noise",
    [
        SCHEDULES["geometric"](sigma_min=0.05, sigma_max=1.5),
        SCHEDULES["geometric"](sigma_min=1e-4, sigma_max=20.0),
        SCHEDULES["loglinear"](),
    ],
    ids=["short", "geometric", "loglinear"],
)
def test_the_bound_is_the_time_integral_plus_prior_plus_reconstruction(name, noise):
    graph, Q, p0 = world(name, L=2)
    score, x0 = reference.wrong_score(p0, Q), X0[0, :2]
    model = score_model(graph, noise, score)
    low, high = ends(model)
    steps = np.geomspace(low, high, 5).tolist()
    assert integral_mean(model, Q, x0) == pytest.approx(loss_integral(model, score, Q, x0, *steps), rel=1e-6)
    assert end_mean(model, Q, x0) == pytest.approx(brute_force_ends(model, score, Q, x0), rel=1e-10)


def brute_force_ends(model, score, Q, x0) -> float:
    """D_KL(p_{1|0} || p_base), where not all noise is MASK, and E[-log decoder(x0 | x)], decoder(y | x) ~
    p(x_i | y) s_y(x): sums, no closed form."""
    low, high = ends(model)
    L, first, P = len(x0), reference.transition(Q, low), reference.corruption(Q, low, pinned(model))
    total = 0.0
    if model.graph.mask is None:
        last, start = reference.transition(Q, high), base(model.graph.name, N)
        total = sum(float(last[y, x] * (last[y, x] / start[y]).log()) for x in x0.tolist() for y in range(N))
    xs = reference.sequences(len(Q), L)
    for x, s in zip(xs, score(xs, low), strict=True):
        p = math.prod(float(P[x[i], x0[i]]) for i in range(L))
        for i in range(L if p else 0):
            mass = (first[x[i]] * s[i])[:N]
            total -= p * math.log(mass[x0[i]] / mass.sum())
    return total


def test_graphs_whose_tokens_change_otherwise_have_no_count_form():
    for name in ("uniform", "hybrid"):
        graph, Q, p0 = world(name, L=3)
        model = score_model(graph, SCHEDULES["geometric"](), reference.exact_score(p0, Q))
        with pytest.raises(ValueError, match="no count form"):
            count_draw(model, X0, torch.rand(2, **F64), torch.rand(2, 3, **F64), 0.0, math.inf)


def test_masks_that_are_left_at_the_end_are_decoded_at_once():
    graph, Q, p0 = world("absorbing", L=3)
    score = reference.wrong_score(p0, Q)
    model = score_model(graph, SCHEDULES["geometric"](sigma_min=0.5, sigma_max=20.0), score)
    low = ends(model)[0]
    x0 = torch.stack([X0[0]] * 2)
    u = torch.tensor([[0.9, 0.1, 0.8], [0.1, 0.1, 0.1]], **F64)  # p(MASK at T_END) = 0.39
    x = torch.tensor([[N, int(X0[0][1]), N]])
    s = score(x, low)[0]
    wanted = -sum(float((s[i, x0[0, i]] / s[i, :N].sum()).log()) for i in (0, 2))
    assert end_terms(model, x0, u).tolist() == pytest.approx([wanted, 0.0], rel=1e-9)


NOISES = {
    "uniform": [
        # little noise, so that a forgotten prior would show; much at the end, so that another decoder would
        SCHEDULES["geometric"](sigma_min=0.02, sigma_max=1.5),
        SCHEDULES["geometric"](sigma_min=0.5, sigma_max=8.0),
    ],
    "hybrid": [SCHEDULES["loglinear"](), SCHEDULES["geometric"](sigma_min=0.3, sigma_max=3.0)],
    "absorbing": [
        SCHEDULES["loglinear"](),
        SCHEDULES["loglinear"](eps=0.3),
        # many masks left for the last step
        SCHEDULES["geometric"](sigma_min=0.5, sigma_max=20.0),
        SCHEDULES["geometric"](sigma_min=0.05, sigma_max=20.0),
    ],
}


CASES = [
    pytest.param(name, noise, spread, id=f"{kind}-{name}-{noise}")
    for spread, kind in ((0.0, "exact"), (0.7, "wrong"))
    for name in KINDS
    for noise in NOISES.get(name, NOISES["uniform"])[: None if ALL or name in ("absorbing", "uniform") else 1]
    if ALL or kind == "wrong" or name in ("absorbing", "uniform")
]


@pytest.mark.parametrize(("name", "noise", "spread"), CASES)
def test_the_rigorous_bound_bounds_the_process_that_samplers_approach(name, noise, spread):
    """-log p of that process, solved densely from where samplers start to how they end, lies under the bound, for every
    x0; a sampler of many steps has the same distribution."""
    graph, Q, p0 = world(name, L=2)
    score = reference.wrong_score(p0, Q, spread)
    model = score_model(graph, noise, score)
    S, (low, high) = graph.states, ends(model)
    begin = base(name, N)
    start = reference.joint(begin.expand(1, 2, S))[0]
    p = reference.reverse_process(score, Q, start, high, low, L=2, cells=1500 if name == "hybrid" else 400)
    xs = reference.sequences(S, 2)
    p = p @ reference.joint(reference.bayes_step(Q, xs, score(xs, low), low, graph.mask))
    levels = even_steps(noise, 200)
    sampled = reference.chain("tweedie", score, Q, begin, noise_of(noise), 200, 2, graph.mask, grid=levels)
    assert float((sampled - p).abs().sum()) < 2e-2  # of first order in the step
    bounds, nll = [], []
    for x0 in reference.sequences(N, 2):
        bounds.append(rigorous_mean(model, Q, x0, nodes=4))
        nll.append(-math.log(p[int(x0[0]) * S + int(x0[1])]))
    slack = np.array(bounds) - np.array(nll)
    assert slack.min() > -1e-3  # the reverse process is solved to h² of rates that differ little
    assert sum(math.exp(-b) for b in bounds) < 1 + 1e-9  # only a bound on one distribution sums to less than one
    if spread:
        assert slack.max() > 0.01
    elif name == "absorbing" and noise == SCHEDULES["loglinear"]():
        assert slack.max() < 1e-3


def noise_of(noise):
    return lambda t: tuple(float(one) for one in noise(torch.tensor(t, **F64)))


def even_steps(noise, steps: int) -> list[float]:
    """Times from 1 down to T_END, equal in log sigma."""
    sigma = torch.tensor(np.geomspace(noise.sigma(1.0), noise.sigma(T_END), steps + 1), **F64)
    return [1.0, *noise.t(sigma)[1:-1].tolist(), T_END]


@pytest.mark.parametrize("length", [3, 64, 1024])
@pytest.mark.parametrize(("low", "high"), [(1e-5, 6.9), (1e-4, 20.0), (0.5, 8.0)])
def test_placed_draws_integrate_what_they_should(low, high, length):
    """The weight is the derivative of the place, which runs from end to end: so every integral is kept."""
    v = (torch.arange(400_000, **F64) + 0.5) / 400_000
    sigma, weight = placement.placed_sigma(v, low, high, length)
    assert bool((sigma.diff() > 0).all())
    for f, whole in ((lambda s: torch.ones_like(s), high - low), (lambda s: 1 / s, math.log(high / low))):
        assert float((f(sigma) * weight).mean()) == pytest.approx(whole, rel=1e-4)
    lam, slope = placement.placed_lambda(v, length)
    assert bool((lam.diff() > 0).all())
    torch.testing.assert_close(lam.diff() * 400_000, (slope[1:] + slope[:-1]) / 2, rtol=1e-2, atol=1e-9)
    for power, whole in ((0, 1.0), (1, 0.5), (3, 0.25)):
        assert float((lam**power * slope).mean()) == pytest.approx(whole, rel=1e-8)


@pytest.mark.parametrize("length", [3, 64, 1024])
@pytest.mark.parametrize(("low", "high"), [(1e-5, 6.9), (1e-5, 1.2), (1e-4, 20.0)])
def test_no_draw_of_placed_noise_counts_much_more_than_others(low, high, length, monkeypatch):
    """A moved token costs about 1/sigma. Its weight times that is bounded; it is up to 1e5 where sigma is even."""
    monkeypatch.setattr(placement, "CELLS", 2048)  # as in use: within a cell, draws are even
    v = (torch.arange(100_000, **F64) + 0.5) / 100_000
    sigma, weight = placement.placed_sigma(v, low, high, length)
    assert float((weight / sigma).max()) < 2.01 * math.log(high / low)


@every_kind_of_graph
def test_random_draws_average_to_the_bound(name):
    """The distribution of the draws themselves: Beta order statistics and subsets, times and corruptions."""
    graph, Q, p0 = world(name, L=3)
    # at sigma = 1e-5 a moved token has a chance of 1e-5 and a loss of 1e5: no feasible number of draws would settle
    model = score_model(graph, SCHEDULES["geometric"](sigma_min=0.2, sigma_max=5.0), reference.wrong_score(p0, Q, 0.3))
    generator = torch.Generator().manual_seed(0)
    draws, x0 = 4000 if ALL or name in ("absorbing", "uniform") else 1500, X0[0]
    v = stratified(draws, torch.rand(draws, generator=generator, **F64))
    u, u_end = torch.rand(2, draws, 3, generator=generator, **F64)
    values = rigorous_bound(model, x0.expand(draws, -1), v, u, u_end, count=graph.masking)
    error = float(values.std()) / math.sqrt(draws)
    # fixed seed; stratifying v only lowers the error, so four of these is rarer than 1e-4
    assert float(values.mean()) == pytest.approx(rigorous_mean(model, Q, x0, nodes=4), abs=4 * error)
    if graph.masking or graph.mask is None:
        assert error < 0.02 * float(values.mean())


@every_graph
def test_one_draw_of_the_paper_protocol_is_dsigma_times_the_loss_there(name):
    graph, Q, p0 = world(name, L=3)
    noise = SCHEDULES["geometric"]()
    model = score_model(graph, noise, reference.wrong_score(p0, Q))
    generator = torch.Generator().manual_seed(2)
    v, u = torch.rand(2, generator=generator, **F64), torch.rand(2, 3, generator=generator, **F64)
    for t_min in (1e-3, 0.2):
        sigma, dsigma = noise(t_min + (1 - t_min) * v)
        x = graph.perturb(X0, sigma, u)
        expected = [
            float(dsigma[b]) * reference.sequence_loss(model.net.score, Q, float(sigma[b]), x[b], X0[b])
            for b in range(2)
        ]
        assert paper_bound(model, X0, v, u, t_min).tolist() == pytest.approx(expected, rel=1e-9)
        objective = OBJECTIVES["score_entropy"](t_min=t_min)
        assert objective.loss(model, X0, v, u).sequences.tolist() == pytest.approx(expected, rel=1e-9)


def test_strata_hold_one_number_each():
    v = stratified(50, torch.rand(50, generator=torch.Generator().manual_seed(0), **F64))
    assert (v * 50).long().tolist() == list(range(50))
    assert stratified(4, torch.full((4,), 0.5, **F64)).tolist() == [0.125, 0.375, 0.625, 0.875]


@pytest.mark.parametrize("t_min", [0.0, 1.0])
def test_an_objective_without_a_time_range_is_refused(t_min):
    with pytest.raises(ValueError, match=f"t_min must lie in .*found {t_min}"):
        OBJECTIVES["score_entropy"](t_min=t_min)


def test_the_last_number_below_one_draws_all_masks_whatever_the_rounding_of_the_shares():
    model = score_model(GRAPHS["absorbing"](vocab_size=N), SCHEDULES["loglinear"](), None)
    v = torch.tensor([1 - 2.0**-53], **F64)
    for length in range(1, 200):
        x0, u = torch.zeros(1, length, dtype=torch.int64), torch.linspace(0.1, 0.9, length, **F64)[None]
        assert bool((count_draw(model, x0, v, u, 0.0, math.inf).x == N).all())
