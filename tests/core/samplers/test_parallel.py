"""Unmasking as much as the model is sure of: rules by hand, limits, given tokens, seeds."""

from __future__ import annotations

import itertools

import pytest
import reference
import torch
from support.toys import N, follows, score_model, world

from sedd_cli.core.conditioning import Conditioning
from sedd_cli.core.samplers import SAMPLERS
from sedd_cli.core.schedules import SCHEDULES

EVERY = ["threshold", "entropy_bounded", "remdm_conf"]
CAREFUL = [("threshold", {"threshold": 1.0}), ("entropy_bounded", {"entropy_bound": 0.0})]


def model_of(L: int = 3, graph: str = "absorbing"):
    made, Q, p0 = world(graph, L)
    return score_model(made, SCHEDULES["loglinear"](), reference.exact_score(p0, Q)), p0


def run(sampler, model, given=None, draws=2000, seed=3, L=3, first=0):
    clamp = Conditioning.at(list(given or {}), list((given or {}).values()), draws, L)
    return list(sampler.run(model, clamp, seed, torch.arange(first, first + draws)))


def test_a_threshold_keeps_what_reaches_it_and_the_surest_at_least():
    sure = torch.tensor([[0.95, 0.5, 0.9, 0.99], [0.3, 0.6, 0.2, 0.9]], dtype=torch.float64)
    masked = torch.tensor([[True, True, True, False], [True, True, True, False]])
    sure = sure.masked_fill(~masked, -torch.inf)
    kept = SAMPLERS["threshold"](threshold=0.9).kept(sure, masked)
    assert kept.tolist() == [[True, False, True, False], [False, True, False, False]]


@pytest.mark.parametrize(
    ("bound", "kept"),
    [(0.0, [0, 0, 1, 0]), (0.11, [0, 1, 1, 0]), (0.31, [1, 1, 1, 0]), (0.29, [0, 1, 1, 0])],
)
def test_the_entropy_bound_is_on_the_sum_without_the_largest(bound, kept):
    """Entropies 0.5, 0.2 and 0.1: the sums without the largest are 0, 0.1 and 0.3."""
    sure = -torch.tensor([[0.5, 0.2, 0.1, torch.inf]]).double()
    masked = torch.tensor([[True, True, True, False]])
    assert SAMPLERS["entropy_bounded"](entropy_bound=bound).kept(sure, masked)[0].tolist() == [bool(k) for k in kept]


@pytest.mark.parametrize("name", EVERY)
def test_a_single_token_follows_the_models_distribution(name):
    model, p0 = model_of(L=1)
    options = {"steps": 6} if name == "remdm_conf" else {}
    follows(run(SAMPLERS[name](**options), model, draws=20_000, L=1)[-1].x, p0.flatten(), N + 1)


@pytest.mark.parametrize(("name", "options"), CAREFUL)
def test_the_most_careful_setting_fills_one_token_an_evaluation(name, options):
    model, _ = model_of()
    trace = run(SAMPLERS[name](**options), model)
    for before, now in itertools.pairwise(trace):
        assert ((before.x == N).sum(1) - (now.x == N).sum(1) == 1).all()
    assert trace[-1].evaluations.tolist() == [3] * 2000


def test_one_position_at_a_time_by_entropy_follows_the_models_distribution():
    """Which position comes next depends on known tokens alone, so that the product of the conditionals is exact."""
    model, p0 = model_of()
    follows(run(SAMPLERS["entropy_bounded"](entropy_bound=0.0), model, draws=20_000)[-1].x, p0.flatten(), N + 1)


@pytest.mark.parametrize(
    ("name", "options"), [("threshold", {"threshold": 0.0}), ("entropy_bounded", {"entropy_bound": 1e9})]
)
def test_the_least_careful_setting_takes_one_evaluation(name, options):
    model, _ = model_of()
    assert run(SAMPLERS[name](**options), model)[-1].evaluations.tolist() == [1] * 2000


def test_confidence_remasking_without_remasking_is_tweedie_of_the_normalised_model():
    graph, Q, p0 = world("absorbing", 3)
    noise = SCHEDULES["loglinear"]()
    model = score_model(graph, noise, reference.exact_score(p0, Q))
    start = reference.base("absorbing", N)
    truth = reference.chain(
        "tweedie", reference.exact_score(p0, Q), Q, start, lambda t: tuple(map(float, noise(torch.tensor(t).double()))),
        4, 3, N,
    )  # fmt: skip
    follows(run(SAMPLERS["remdm_conf"](steps=4, eta=0.0), model, draws=10_000)[-1].x, truth, N + 1)


def test_confidence_remasking_takes_the_least_sure_tokens_back_and_given_ones_never():
    model, _ = model_of(L=4)
    trace = run(SAMPLERS["remdm_conf"](steps=30), model, {1: 2}, L=4)
    back = sum(int(((a.x != N) & (b.x == N)).sum()) for a, b in itertools.pairwise(trace))
    assert back > 200
    assert all((now.x[:, 1] == 2).all() for now in trace)


def test_confidence_remasking_remembers_the_probability_with_which_a_token_was_drawn():
    p = torch.tensor([[0.5, 0.3, 0.2], [0.1, 0.6, 0.3]], dtype=torch.float64)
    u = torch.tensor([0.1, 0.9], dtype=torch.float64)
    token, psi = SAMPLERS["remdm_conf"]().drawn(p, u)
    assert token.tolist() == [0, 2]
    torch.testing.assert_close(psi, torch.tensor([0.5, 0.3], dtype=torch.float64))
    token, psi = SAMPLERS["remdm_conf"](top_p=0.7).drawn(p, u)  # two tokens are left
    assert token.tolist() == [0, 2]
    torch.testing.assert_close(psi, torch.tensor([0.5 / 0.8, 0.3 / 0.9], dtype=torch.float64))
    sharp = p.square() / p.square().sum(-1, keepdim=True)
    token, psi = SAMPLERS["remdm_conf"](temperature=0.5).drawn(p, u)
    torch.testing.assert_close(psi, sharp.gather(-1, token[:, None])[:, 0])


@pytest.mark.parametrize("name", [*EVERY, "psi", "flow_matching", "remdm_rescale", "remdm_loop", "ddim"])
def test_given_tokens_stay_seeds_repeat_and_no_mask_is_left(name):
    model, _ = model_of()
    options = {"steps": 5} if "steps" in SAMPLERS[name].__dataclass_fields__ else {}
    found = run(SAMPLERS[name](**options), model, {1: 0}, draws=200)[-1].x
    assert (found[:, 1] == 0).all()
    assert int(found.max()) < N
    assert torch.equal(found, run(SAMPLERS[name](**options), model, {1: 0}, draws=200)[-1].x)
    assert torch.equal(found[150:], run(SAMPLERS[name](**options), model, {1: 0}, draws=50, first=150)[-1].x)
    assert not torch.equal(found, run(SAMPLERS[name](**options), model, {1: 0}, draws=200, seed=4)[-1].x)


def test_blocks_are_filled_one_after_another():
    model, _ = model_of(L=4)
    for name in ("threshold", "entropy_bounded"):
        for now in run(SAMPLERS[name](block_length=2), model, draws=300, L=4):
            masked = now.x == N
            assert not (masked[:, :2].any(1) & ~masked[:, 2:].all(1)).any()


@pytest.mark.parametrize(
    ("same", "as_"),
    [(("psi", {"kappa": 1.0}), "tweedie"), (("flow_matching", {"beta": 0.0}), "euler")],
)
@pytest.mark.parametrize("graph", ["absorbing", "uniform"])
def test_limits_are_the_samplers_that_they_generalise(same, as_, graph):
    model, _ = model_of(graph=graph)
    name, options = same
    found = run(SAMPLERS[name](steps=6, **options), model, draws=500)[-1].x
    assert torch.equal(found, run(SAMPLERS[as_](steps=6), model, draws=500)[-1].x)


def test_remasking_of_nothing_is_tweedie_at_the_rescaled_schedule():
    model, _ = model_of()
    found = [
        run(SAMPLERS[name](steps=6, **o), model)[-1].x for name, o in (("remdm_rescale", {"eta": 0.0}), ("tweedie", {}))
    ]
    assert torch.equal(*found)


@pytest.mark.parametrize(
    ("name", "options", "word"),
    [
        ("threshold", {"threshold": 1.5}, "threshold must lie"),
        ("entropy_bounded", {"entropy_bound": -1.0}, "entropy_bound must be"),
        ("threshold", {"block_length": -1}, "block_length"),
        ("psi", {"kappa": 2.0}, "kappa must lie"),
        ("flow_matching", {"beta": -1.0}, "beta must be"),
        ("remdm_conf", {"eta": 2.0}, "eta must lie"),
        ("remdm_conf", {"steps": 0}, "steps must lie"),
        ("remdm_conf", {"grid": "log"}, "grid must be"),
        ("gibbs", {"sweeps": 0}, "sweeps must lie"),
        ("gibbs", {"grid": "log"}, "grid must be"),
    ],
)
def test_options_out_of_range_are_refused(name, options, word):
    with pytest.raises(ValueError, match=word):
        SAMPLERS[name](**options)
