"""Options that change the distribution of the samples: each against the distribution that its source states."""

import itertools
import math

import pytest
import reference
import torch
from support.toys import (
    STEPPERS,
    N,
    base,
    every_graph,
    every_kind_of_graph,
    every_noise,
    fits,
    follows,
    schedule,
    score_model,
    world,
)

from sedd_cli.core.categorical import nucleus, temper
from sedd_cli.core.conditioning import Conditioning
from sedd_cli.core.graphs import GRAPHS, Transition
from sedd_cli.core.samplers import GRIDS, SAMPLERS, run_reference
from sedd_cli.core.samplers.corrector import corrector_length
from sedd_cli.core.samplers.draws import Float32Gumbel
from sedd_cli.core.samplers.stepper import Correction
from sedd_cli.core.schedules import SCHEDULES

DRAWS = 10_000


def samples(sampler, model, given=None, draws: int = DRAWS, seed: int = 5) -> torch.Tensor:
    """The last x [draws, L] of the fast path; the plain path agrees on the first thousand."""
    clamp = Conditioning.at(list(given or {}), list((given or {}).values()), draws, 3)
    *_, last = sampler.run(model, clamp, seed, torch.arange(draws))
    few = Conditioning(clamp.where[:1000], clamp.tokens[:1000])
    *_, plain = run_reference(model, sampler, few, seed, torch.arange(1000))
    assert torch.equal(last.x[:1000], plain)
    return last.x


# ----------------------------------------------------------------------------------- the distribution of a token


def test_temper_takes_powers_and_keeps_zeros():
    weights = torch.tensor([[1.0, 4.0, 0.0, 9.0]])
    assert temper(weights, 0.5)[0].tolist() == pytest.approx([1 / 81, 16 / 81, 0, 1])
    assert temper(weights, 2.0)[0].tolist() == pytest.approx([1 / 3, 2 / 3, 0, 1])
    tiny = temper(1e-30 * weights, 0.01)[0]  # powers that no float holds
    assert tiny.tolist() == pytest.approx([0, (4 / 9) ** 100, 0, 1], abs=1e-30)


@pytest.mark.parametrize(
    ("top_p", "kept"),
    [(1.0, [0, 1, 2, 3]), (0.96, [0, 1, 2, 3]), (0.94, [1, 2, 3]), (0.75, [1, 2, 3]), (0.7, [1, 3]), (0.01, [1])],
)
def test_the_nucleus_is_the_fewest_that_hold_the_share(top_p, kept):
    weights = torch.tensor([[0.05, 0.4, 0.2, 0.35]]).double()
    found = nucleus(weights, top_p)[0]
    assert found.nonzero()[:, 0].tolist() == kept
    assert found[kept].tolist() == weights[0, kept].tolist()


def test_equal_entries_at_the_edge_stay_in_order():
    assert nucleus(torch.ones(1, 4), 0.5)[0].tolist() == [1, 1, 0, 0]


def test_the_nucleus_of_blocks_is_that_of_the_whole(monkeypatch):
    weights = torch.rand(23, 11, generator=torch.Generator().manual_seed(1))
    whole = nucleus(weights, 0.6)
    monkeypatch.setattr("sedd_cli.core.categorical.BLOCK", 40)
    assert torch.equal(nucleus(weights, 0.6), whole)
    assert nucleus(weights[:0], 0.6).shape == (0, 11)


@every_graph
@pytest.mark.parametrize("levers", [{"temperature": 0.5}, {"temperature": 1.7, "top_p": 0.8}, {"top_p": 0.6}], ids=str)
@pytest.mark.parametrize("given", [{}, {1: 0}], ids=str)
def test_a_tempered_or_cut_chain_is_the_dense_one(name, levers, given):
    graph, Q, p0 = world(name, L=3)
    noise, score = SCHEDULES["loglinear"](), reference.wrong_score(p0, Q, 0.4)
    mask = N if graph.states > N else None
    start = base(name, N)
    truth = reference.chain("tweedie", score, Q, start, schedule(noise), 5, 3, mask, given, **levers)
    plain = reference.chain("tweedie", score, Q, start, schedule(noise), 5, 3, mask, given)
    assert (truth - plain).abs().sum() > 0.025  # the lever does something
    follows(samples(SAMPLERS["tweedie"](steps=5, **levers), score_model(graph, noise, score), given), truth, len(Q))


def test_first_hitting_is_tempered_token_by_token():
    graph, Q, p0 = world("absorbing", L=1)
    model = score_model(graph, SCHEDULES["loglinear"](), reference.exact_score(p0, Q))
    sampler = SAMPLERS["first_hitting"](temperature=2.0, top_p=0.85)
    *_, last = sampler.run(model, Conditioning.nothing(DRAWS, 1), 0, torch.arange(DRAWS))
    truth = nucleus(temper(p0[None, :N], 2.0), 0.85)[0]
    assert int((truth > 0).sum()) == 2
    follows(last.x, torch.nn.functional.pad(truth / truth.sum(), (0, 1)), N + 1)


# --------------------------------------------------------------------------------------------- predictor-corrector


@pytest.mark.parametrize("name", [name for name in GRAPHS if fits("tweedie", name, correctors=2)])
@every_noise
@pytest.mark.parametrize("sampler", ["tweedie", "euler"])
def test_a_corrected_chain_is_the_dense_one(name, noise, sampler):
    graph, Q, p0 = world(name, L=3)
    score = reference.wrong_score(p0, Q, 0.4)
    mask = N if graph.states > N else None
    start, given = base(name, N), {2: 1}
    truth = reference.chain(sampler, score, Q, start, schedule(noise), 4, 3, mask, given, correctors=2)
    made = SAMPLERS[sampler](steps=4, correctors=2)
    follows(samples(made, score_model(graph, noise, score), given), truth, len(Q))


@every_graph
@every_noise
@pytest.mark.parametrize("size", [0.01, 0.3, 5.0, 500.0])
@pytest.mark.parametrize("t", [1.0, 0.6, 0.05])
def test_a_correction_leaves_the_distribution_of_a_single_token(name, noise, size, t):
    """The package's own, however long the leap that is asked for: no position is left with more than certainty."""
    graph, Q, p0 = world(name, L=1)
    model, x = score_model(graph, noise, reference.exact_score(p0, Q)), torch.arange(graph.states)
    sigma = model.schedule(torch.tensor(t).double())[0]
    length = corrector_length(sigma, torch.tensor(size).double())
    move = Correction(SAMPLERS["tweedie"](), model, sigma, float(length), length)
    transition = move.transition(model.log_score(x[:, None], move.sigma.expand(len(x)))[:, 0], x)
    share = transition.weights.double() / transition.weights.double().sum(-1, keepdim=True).clamp(min=1e-300)
    rows = transition.move_probability[:, None] * share
    if graph.mask is not None:  # what the network has no say in
        rows[:N] = 0.0
        rows[:N, N] = move.remask_probability
    rows = rows.scatter_add(1, x[:, None], 1 - rows.sum(1, keepdim=True))
    p = reference.diffuse(p0, Q, float(move.sigma)).flatten()
    torch.testing.assert_close(p @ rows, p, rtol=1e-9, atol=1e-12)
    assert rows.diagonal().max() < 1  # and it moves


def test_remdm_keeps_the_marginals_of_a_single_token_in_the_package():
    graph, Q, p0 = world("absorbing", L=1)
    noise, draws = SCHEDULES["loglinear"](), 20_000
    model = score_model(graph, noise, reference.exact_score(p0, Q))
    trace = list(SAMPLERS["remdm"](steps=6, eta=0.6).run(model, Conditioning.nothing(draws, 1), 4, torch.arange(draws)))
    for k in (2, 4, 5):
        follows(trace[k].x, reference.diffuse(p0, Q, noise.sigma(reference.time_grid(6)[k + 1])).flatten(), N + 1)
    follows(trace[-1].x, p0.flatten(), N + 1)


@every_graph
def test_correctors_make_few_steps_better(name):
    """What they are for: coarse steps treat positions as independent, corrections bring dependence back. Of the dense
    chain, to which `test_a_corrected_chain_is_the_dense_one` ties the package."""
    graph, Q, p0 = world(name, L=3)
    score, noise = reference.exact_score(p0, Q), SCHEDULES["loglinear"]()
    mask, start = (N if graph.states > N else None), base(name, N)
    p = [reference.chain("tweedie", score, Q, start, schedule(noise), 6, 3, mask, correctors=c) for c in (0, 4)]
    plain, corrected = (float((distribution - p0.flatten()).abs().sum()) for distribution in p)
    assert corrected < 0.9 * plain


def test_corrections_cost_evaluations_and_are_counted():
    graph, Q, p0 = world("uniform", L=3)
    model = score_model(graph, SCHEDULES["loglinear"](), reference.exact_score(p0, Q))
    trace = list(SAMPLERS["tweedie"](steps=5, correctors=2).run(model, Conditioning.nothing(4, 3), 1, torch.arange(4)))
    assert [now.step for now in trace] == [1, 2, 3, 4, 5, 6]
    assert trace[-1].evaluations.tolist() == [16] * 4


# --------------------------------------------------------------------------------------------------- remasking


@every_noise
@pytest.mark.parametrize("given", [{}, {0: 2}], ids=str)
@pytest.mark.parametrize("eta", [0.05, 0.6, 1.0])
def test_a_remasking_chain_is_the_dense_one(noise, given, eta):
    graph, Q, p0 = world("absorbing", L=3)
    score = reference.wrong_score(p0, Q, 0.4)
    start = reference.base("absorbing", N)
    truth = reference.chain("remdm", score, Q, start, schedule(noise), 5, 3, N, given, eta=eta)
    follows(samples(SAMPLERS["remdm"](steps=5, eta=eta), score_model(graph, noise, score), given), truth, N + 1)


def test_without_remasking_remdm_is_tweedie():
    graph, Q, p0 = world("absorbing", L=3)
    model = score_model(graph, SCHEDULES["geometric"](), reference.wrong_score(p0, Q, 0.4))
    found = [
        samples(made, model, draws=1000) for made in (SAMPLERS["remdm"](steps=9, eta=0.0), SAMPLERS["tweedie"](steps=9))
    ]
    assert torch.equal(*found)


def test_tokens_are_taken_back_and_given_ones_never():
    graph, Q, p0 = world("absorbing", L=3)
    model = score_model(graph, SCHEDULES["loglinear"](), reference.exact_score(p0, Q))
    trace = list(
        SAMPLERS["remdm"](steps=20, eta=0.5).run(model, Conditioning.at([1], [2], 200, 3), 1, torch.arange(200))
    )
    back = sum(int(((a.x != N) & (b.x == N)).sum()) for a, b in itertools.pairwise(trace))
    assert back > 200
    assert all((now.x[:, 1] == 2).all() for now in trace)
    assert int(trace[-1].x.max()) < N


# ------------------------------------------------------------------------------------------------------- grids


@every_noise
@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("steps", [1, 2, 50])
def test_a_grid_goes_down_from_1_to_1e_minus_5(noise, grid, steps):
    t = GRIDS[grid](noise, steps)
    assert len(t) == steps + 1
    assert (t[0], t[-1]) == (1.0, 1e-5)
    assert (t.diff() < 0).all()
    assert t.dtype == torch.float64


def test_cosine_steps_are_short_at_first():
    t = GRIDS["cosine"](SCHEDULES["loglinear"](), 4)
    assert t.tolist() == pytest.approx(
        [1, math.cos(math.pi / 8), math.cos(math.pi / 4), math.cos(3 * math.pi / 8), 0], abs=2e-5
    )


@every_noise
def test_even_steps_unmask_equally_many(noise):
    t = GRIDS["even"](noise, 40)
    lam = -torch.expm1(-noise(t)[0])
    assert float(lam.diff().std() / lam.diff().mean().abs()) < 1e-6
    if noise.name == "loglinear":
        torch.testing.assert_close(t, GRIDS["linear"](noise, 40), rtol=0, atol=1e-12)


@every_graph
@pytest.mark.parametrize("grid", ["cosine", "even"])
def test_a_chain_along_another_grid_is_the_dense_one(name, grid):
    graph, Q, p0 = world(name, L=3)
    noise, score = SCHEDULES["geometric"](), reference.wrong_score(p0, Q, 0.4)
    mask = N if graph.states > N else None
    times = GRIDS[grid](noise, 5).tolist()
    truth = reference.chain("tweedie", score, Q, base(name, N), schedule(noise), 5, 3, mask, grid=times)
    follows(samples(SAMPLERS["tweedie"](steps=5, grid=grid), score_model(graph, noise, score)), truth, len(Q))


# ---------------------------------------------------------------------------------------------------- legacy draws


@every_kind_of_graph
def test_the_legacy_race_follows_the_chain_where_no_token_is_rare(name):
    graph, Q, p0 = world(name, L=3)
    noise, score = SCHEDULES["loglinear"](), reference.wrong_score(p0, Q, 0.4)
    mask = N if graph.states > N else None
    truth = reference.chain("tweedie", score, Q, base(name, N), schedule(noise), 3, 3, mask, {1: 2})
    made = SAMPLERS["tweedie"](steps=3, draws="float32-gumbel")
    follows(samples(made, score_model(graph, noise, score), {1: 2}, draws=3000), truth, len(Q))


def test_the_legacy_race_is_the_published_one():
    """Draw for draw, on the same float32 uniforms; what that race does to rare tokens stands in test_categorical."""
    weights = torch.rand(200, 5, generator=torch.Generator().manual_seed(3)).double()
    weights[:, 4] = 0.0
    transition = Transition(torch.full((200,), 0.6).double(), weights)
    seeds = (torch.arange(200).double() + 0.5) / 200
    found = Float32Gumbel()(transition, torch.full((200,), 4), seeds, seeds, lambda w: w)
    assert found.unique().tolist() == [0, 1, 2, 3, 4]
    for row in range(200):
        p = 0.6 * weights[row] / weights[row].sum()
        p[4] = 0.4
        u = torch.rand(5, generator=torch.Generator().manual_seed(int(float(seeds[row]) * 2**52)))
        assert int(found[row]) == int(reference.published_float32_race(p, u))


def test_the_legacy_race_looks_at_every_position_in_every_step():
    graph, Q, p0 = world("absorbing", L=3)
    model = score_model(graph, SCHEDULES["loglinear"](), reference.exact_score(p0, Q))
    *_, last = SAMPLERS["tweedie"](steps=30, draws="float32-gumbel").run(
        model, Conditioning.nothing(50, 3), 1, torch.arange(50)
    )
    *_, exact = SAMPLERS["tweedie"](steps=30).run(model, Conditioning.nothing(50, 3), 1, torch.arange(50))
    assert last.evaluations.double().mean() > 1.2 * exact.evaluations.double().mean()


# ------------------------------------------------------------------------------------------------- what is named


@pytest.mark.parametrize("name", SAMPLERS)
def test_only_what_changes_the_distribution_is_named(name):
    own = {
        "remdm": {"eta": 0.02},
        "remdm_rescale": {"eta": 0.02},
        "remdm_loop": {"eta": 0.02},
        "remdm_conf": {"eta": 1.0, "normalized": True},
        "first_hitting": {"normalized": True},
        "psi": {"kappa": 0.98},
        "flow_matching": {"beta": 0.5},
        "gibbs": {"sweeps": 4},
    }.get(name, {})
    assert SAMPLERS[name]().distribution_options() == own
    assert SAMPLERS[name](temperature=0.7, top_p=0.9).distribution_options() == {
        "temperature": 0.7,
        "top_p": 0.9,
        **own,
    }
    if name in STEPPERS:
        changed = SAMPLERS[name](steps=9, thinning=False, grid="cosine", correctors=1, draws="float32-gumbel")
        assert changed.distribution_options() == {"grid": "cosine", "correctors": 1, "draws": "float32-gumbel", **own}


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"temperature": 0.0}, "temperature must be positive"),
        ({"temperature": math.inf}, "temperature must be positive"),
        ({"top_p": 0.0}, "top_p must lie"),
        ({"top_p": 1.1}, "top_p must lie"),
        ({"grid": "log"}, "linear, cosine, even"),
        ({"correctors": -1}, "correctors must be at least 0"),
        ({"draws": "float16"}, "float64, float32-gumbel"),
        ({"eta": 1.5}, "eta must lie"),
    ],
)
def test_levers_out_of_range_are_refused(options, word):
    with pytest.raises(ValueError, match=word):
        SAMPLERS["remdm"](**options)
