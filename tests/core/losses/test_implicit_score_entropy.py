"""Implicit score entropy (proposition 3.3) is the denoising form up to a constant, in value and gradient."""

from __future__ import annotations

import pytest
import reference
import torch
from support.toys import every_graph, rate_matrix, world

from sedd_cli.core.losses.implicit_score_entropy import implicit_score_entropy
from sedd_cli.core.losses.score_entropy import score_entropy

F64 = {"dtype": torch.float64}


def enumerated(name, L, sigma):
    """(graph, all sequences x, all clean x0, p(x, x0) [n, m]) of the toy distribution, by dense products."""
    graph, Q, p0 = world(name, L)
    P = reference.transition(Q, sigma)
    x, x0 = reference.sequences(graph.states, L), reference.sequences(p0.shape[0], L)
    joint = torch.stack([P[x[:, i]][:, x0[:, i]] for i in range(L)]).prod(0) * p0.flatten()
    return graph, x, x0, joint


def denoising(graph, log_score, sigma, x, x0, joint):
    """E over (x, x0) of the integrand of theorem 3.6, over all pairs that can occur."""
    total = torch.zeros((), **F64)
    for a, b in joint.nonzero().tolist():
        level = torch.full_like(x[a], 0, **F64) + sigma
        total = total + joint[a, b] * score_entropy(graph, log_score[a], level, x[a], x0[b]).sum()
    return total


def random_scores(graph, x, seed):
    return torch.randn(*x.shape, graph.states, generator=torch.Generator().manual_seed(seed), **F64).requires_grad_()


@every_graph
@pytest.mark.parametrize("sigma", [0.05, 0.7])
def test_it_differs_from_the_denoising_form_by_a_constant(name, sigma):
    graph, x, x0, joint = enumerated(name, 2, sigma)
    differences = []
    for seed in range(3):
        log_score = random_scores(graph, x, seed)
        implicit = implicit_score_entropy(graph, log_score, torch.tensor(sigma, **F64), x, joint.sum(1))
        explicit = denoising(graph, log_score, sigma, x, x0, joint)
        differences.append(float((explicit - implicit).detach()))
        (mine,) = torch.autograd.grad(implicit, log_score)
        (truth,) = torch.autograd.grad(explicit, log_score)
        torch.testing.assert_close(mine, truth, rtol=1e-8, atol=1e-10)
        assert float(mine.abs().max()) > 1e-3
    assert differences == pytest.approx([differences[0]] * 3, rel=1e-9)


@every_graph
def test_its_minimum_is_the_true_score(name):
    sigma = 0.7
    graph, x, _, joint = enumerated(name, 2, sigma)
    _, Q, p0 = world(name, 2)
    true = reference.exact_score(p0, Q)(x, sigma).clamp(min=1e-30).log()
    log_score = true.clone().requires_grad_()
    value = implicit_score_entropy(graph, log_score, torch.tensor(sigma, **F64), x, joint.sum(1))
    (gradient,) = torch.autograd.grad(value, log_score)
    assert float(gradient.abs().max()) < 1e-9
    for seed in range(3):
        other = true + 0.3 * random_scores(graph, x, seed).detach()
        assert implicit_score_entropy(graph, other, torch.tensor(sigma, **F64), x, joint.sum(1)) > value


def test_a_part_of_the_sequences_is_refused():
    graph, _, _ = world("uniform", 2)
    x = reference.sequences(graph.states, 2)[1:]
    with pytest.raises(ValueError, match="all 3"):
        implicit_score_entropy(graph, torch.zeros(*x.shape, graph.states), torch.tensor(0.1), x, torch.ones(len(x)))
    assert rate_matrix("uniform", 3).shape == (3, 3)
