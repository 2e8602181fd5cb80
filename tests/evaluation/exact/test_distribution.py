"""Enumerated distributions of samplers: against their draws, against dense chains, and at exact limits."""

from __future__ import annotations

import pytest
import reference
import torch
from support.toys import N, follows, schedule, score_model, world

from sedd_cli.core.conditioning import Conditioning
from sedd_cli.core.samplers import SAMPLERS
from sedd_cli.core.schedules import SCHEDULES
from sedd_cli.errors import RequestError
from sedd_cli.evaluation.exact.distances import total_variation
from sedd_cli.evaluation.exact.distribution import exact_distribution
from sedd_cli.evaluation.exact.source import MarkovSource
from sedd_cli.evaluation.exact.states import check_enumerable

SOURCE = MarkovSource(letters=3, length=4, seed=1)
GRIDS = {"steps": 3}
DISTRIBUTIONS = [
    ("absorbing", "tweedie", {"steps": 3, "correctors": 1, "temperature": 0.8}),
    ("absorbing", "remdm", {"steps": 3, "eta": 0.4}),
    ("absorbing", "remdm_loop", {"steps": 4, "eta": 0.4}),
    ("absorbing", "psi", {"steps": 3, "kappa": 0.5}),
    ("absorbing", "first_hitting", {}),
    ("absorbing", "confidence", {"steps": 2}),
    ("absorbing", "confidence", {"steps": 2, "order": "margin", "quota": "linear"}),
    ("absorbing", "confidence", {"steps": 3, "order": "entropy", "block_length": 2, "temperature": 0.7}),
    ("absorbing", "confidence", {"steps": 3, "order": "random"}),
    ("absorbing", "threshold", {"threshold": 0.6}),
    ("absorbing", "threshold", {"threshold": 0.6, "block_length": 3, "top_p": 0.9}),
    ("absorbing", "entropy_bounded", {"entropy_bound": 0.8}),
    ("uniform", "tweedie", {"steps": 3, "last_step": "tweedie"}),
    ("uniform", "ddim", {"steps": 3}),
    ("uniform", "flow_matching", {"steps": 3}),
    ("uniform", "gibbs", {"steps": 2, "sweeps": 1}),
    ("hybrid", "psi", {"steps": 3}),
]


@pytest.mark.parametrize("given", [{}, {1: 2}], ids=str)
@pytest.mark.parametrize(("graph", "name", "options"), DISTRIBUTIONS)
def test_draws_follow_the_enumerated_distribution(graph, name, options, given):
    model, sampler, draws = SOURCE.model(graph), SAMPLERS[name](**options), 10_000
    distribution = exact_distribution(model, sampler, 4, given)
    clamp = Conditioning.at(list(given), list(given.values()), draws, 4)
    *_, last = sampler.run(model, clamp, 11, torch.arange(draws))
    follows(last.x, distribution.p, model.graph.states)
    if model.graph.mask is None or not issubclass(SAMPLERS[name], SAMPLERS["tweedie"].__mro__[1]):
        # a stepper on a masking graph spares evaluations in which nothing moves
        assert float(last.evaluations.double().mean()) == pytest.approx(distribution.evaluations, abs=0.05)


@pytest.mark.parametrize("given", [{}, {0: 1}], ids=str)
@pytest.mark.parametrize(("graph", "name"), [("absorbing", "tweedie"), ("uniform", "euler"), ("absorbing", "psi")])
def test_a_stepper_is_the_dense_chain(graph, name, given):
    made, Q, p0 = world(graph, L=3)
    score, noise = reference.wrong_score(p0, Q, 0.4), SCHEDULES["geometric"]()
    start = reference.base(graph, N)
    mask = N if made.mask is not None else None
    truth = reference.chain(name, score, Q, start, schedule(noise), 4, 3, mask, given)
    distribution = exact_distribution(score_model(made, noise, score), SAMPLERS[name](steps=4), 3, given)
    torch.testing.assert_close(distribution.p, truth, rtol=0, atol=1e-10)


def own(model) -> torch.Tensor:
    p = torch.zeros((model.graph.states,) * 4, dtype=torch.float64)
    p[(slice(0, 3),) * 4] = SOURCE.distribution()
    return p.flatten()


@pytest.mark.parametrize(
    ("name", "options", "exact"),
    [
        ("first_hitting", {}, True),
        ("confidence", {"order": "random", "steps": 4}, True),
        ("confidence", {"order": "entropy", "steps": 4}, True),
        ("entropy_bounded", {"entropy_bound": 0.0}, True),
        ("confidence", {"steps": 4}, False),  # the order depends on the tokens that are drawn
        ("confidence", {"order": "random", "steps": 2}, False),  # two at once
        ("tweedie", {"steps": 4}, False),
    ],
)
def test_one_token_at_a_time_is_exact_where_the_order_does_not_depend_on_the_draws(name, options, exact):
    model = SOURCE.model("absorbing")
    distance = total_variation(exact_distribution(model, SAMPLERS[name](**options), 4).p, own(model))
    assert (distance < 1e-10) if exact else (distance > 1e-3)


@pytest.mark.parametrize("graph", ["absorbing", "uniform"])
@pytest.mark.parametrize("name", ["tweedie", "psi", "ddim", "flow_matching"])
def test_many_steps_approach_the_source(graph, name):
    model = SOURCE.model(graph)
    few, many = (
        total_variation(exact_distribution(model, SAMPLERS[name](steps=steps), 4).p, own(model)) for steps in (4, 128)
    )
    assert many < 0.25 * few
    assert many < 0.03


def test_gibbs_sweeps_lie_at_least_five_times_nearer_to_the_conditional_than_clamping():
    """Gaps of two and three letters within six, at 16 and 32 network evaluations, for three sources."""
    for seed in range(3):
        source = MarkovSource(letters=3, length=6, seed=seed)
        model, p0 = source.model("uniform"), source.distribution()
        for given in ({0: 0, 1: 1, 4: 2, 5: 0}, {0: 1, 2: 0, 5: 2}):
            truth = torch.zeros_like(p0)
            at = tuple(given.get(i, slice(None)) for i in range(6))
            truth[at] = p0[at] / p0[at].sum()
            for evaluations in (16, 32):
                gap = 6 - len(given)
                sweeps = (evaluations - 5) // gap
                clamped = exact_distribution(model, SAMPLERS["tweedie"](steps=evaluations - 1), 6, given)
                swept = exact_distribution(
                    model, SAMPLERS["gibbs"](steps=evaluations - 1 - sweeps * gap, sweeps=sweeps), 6, given
                )
                assert clamped.evaluations == pytest.approx(evaluations)
                assert swept.evaluations == pytest.approx(evaluations)
                distances = [total_variation(distribution.p, truth.flatten()) for distribution in (clamped, swept)]
                print(seed, gap, evaluations, distances)
                assert distances[0] > 5 * distances[1]


def test_a_sampler_without_a_form_gives_none():
    model = SOURCE.model("absorbing")
    assert exact_distribution(model, SAMPLERS["remdm_conf"](steps=3), 4) is None
    assert exact_distribution(model, SAMPLERS["confidence"](steps=3, guidance=0.5), 4) is None
    assert exact_distribution(model, SAMPLERS["tweedie"](steps=3, draws="float32-gumbel"), 4) is None


def test_what_cannot_be_enumerated_is_refused_with_the_limit():
    check_enumerable(10, 5)
    with pytest.raises(RequestError, match="at most 100,000"):
        check_enumerable(11, 5)
    with pytest.raises(RequestError, match=r"50,258 states at 1,024 positions"):
        check_enumerable(50_258, 1024)


def test_the_refusal_names_what_fits():
    with pytest.raises(
        RequestError, match=r"at most 100,000 are possible; the most that fits: --length 7 or --letters 2$"
    ):
        check_enumerable(5, 10, 4)
    with pytest.raises(RequestError, match=r"are possible; the most that fits: --length 1$"):
        check_enumerable(50_258, 1024)
    with pytest.raises(RequestError, match=r"at most 100,000 are possible$"):
        check_enumerable(200_000, 1)


def test_the_source_is_a_distribution_with_the_chains_entropy():
    p0 = SOURCE.distribution()
    assert float(p0.sum()) == pytest.approx(1)
    entropy = -float(torch.xlogy(p0, p0).sum())
    assert entropy == pytest.approx(SOURCE.chain().block_entropy(4))


@pytest.mark.parametrize("graph", ["uniform", "hybrid"])
def test_the_source_gives_the_exact_scores(graph):
    model = SOURCE.model(graph)
    Q, p0 = model.graph.rate_matrix, torch.zeros((model.graph.states,) * 4, dtype=torch.float64)
    p0[(slice(0, 3),) * 4] = SOURCE.distribution()
    x = reference.sequences(model.graph.states, 4)[::7]
    truth = reference.exact_score(p0, Q)(x, 0.7)
    found = model.log_score(x, torch.full((len(x),), 0.7, dtype=torch.float64)).exp()
    torch.testing.assert_close(found, truth, rtol=1e-9, atol=1e-12)
