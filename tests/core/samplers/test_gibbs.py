"""Gibbs sweeps: against clamping on a source whose conditional distribution is known."""

from __future__ import annotations

import pytest
import reference
import torch
from support.toys import N, follows, score_model, world

from sedd_cli.core.conditioning import Conditioning
from sedd_cli.core.graphs import GRAPHS
from sedd_cli.core.samplers import SAMPLERS
from sedd_cli.core.schedules import SCHEDULES


def model_of(L: int = 4):
    graph, Q, p0 = world("uniform", L)
    return score_model(graph, SCHEDULES["loglinear"](), reference.exact_score(p0, Q)), p0


def run(model, sampler, given, draws, L=4, seed=2, first=0):
    clamp = Conditioning.at(list(given), list(given.values()), draws, L)
    return list(sampler.run(model, clamp, seed, torch.arange(first, first + draws)))


def test_fillings_follow_the_conditional_distribution():
    """Up to the lowest noise level, a thousandth of a token: draws are too few to see that."""
    model, p0 = model_of()
    truth = torch.zeros_like(p0)
    truth[:, 1, :, 2] = p0[:, 1, :, 2] / p0[:, 1, :, 2].sum()
    found = run(model, SAMPLERS["gibbs"](steps=4, sweeps=12), {1: 1, 3: 2}, 4000)
    follows(found[-1].x, truth.flatten(), N)


def test_sweeps_take_an_evaluation_for_each_free_token_and_keep_given_ones():
    model, _ = model_of()
    trace = run(model, SAMPLERS["gibbs"](steps=3, sweeps=2), {0: 2}, 20)
    assert trace[-1].evaluations.tolist() == [4 + 2 * 3] * 20
    assert trace[-1].step == trace[-1].steps == len(trace)
    assert all((now.x[:, 0] == 2).all() for now in trace)


def test_a_sequence_depends_on_its_number_and_its_own_gaps_alone():
    model, _ = model_of()
    sampler = SAMPLERS["gibbs"](steps=3, sweeps=2)
    where = torch.tensor([[1, 0, 0, 1], [0, 0, 0, 0], [1, 1, 1, 1], [0, 1, 1, 1]]).bool()
    tokens = torch.tensor([[0, 0, 0, 1], [0, 0, 0, 0], [2, 1, 0, 2], [0, 1, 2, 0]])
    *_, together = sampler.run(model, Conditioning(where, tokens), 7, torch.arange(4))
    for k in range(4):
        *_, alone = sampler.run(model, Conditioning(where[k : k + 1], tokens[k : k + 1]), 7, torch.tensor([k]))
        assert torch.equal(alone.x[0], together.x[k])
        assert alone.evaluations[0] == together.evaluations[k]
    assert torch.equal(together.x[2], tokens[2])


def test_a_graph_with_mask_is_refused():
    with pytest.raises(ValueError, match="needs a graph without MASK"):
        SAMPLERS["gibbs"]().check(GRAPHS["absorbing"](vocab_size=3))
