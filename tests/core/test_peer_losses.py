"""The losses of other projects: their formulas written out, and sums over all that can be masked."""

from __future__ import annotations

from itertools import combinations

import pytest
import torch
from support.sedd_networks import LENGTH, N, save_hub, save_radd_hub

from sedd_cli.checkpoints.load import open_model
from sedd_cli.core.peer_losses import radd, udlm


def test_udlms_loss_is_its_formula_with_noise_and_weights_of_two_schedules(tmp_path):
    """Schiff et al. 2024, eq. 18, with α = 1 − t, at x that is drawn with α = 1 − (1−ε)t."""
    save_hub(tmp_path / "m", "udlm", N)
    model = open_model(tmp_path / "m", "cpu")
    generator = torch.Generator().manual_seed(0)
    x0 = torch.randint(N, (64, LENGTH), generator=generator)
    v, u = (torch.rand(shape, dtype=torch.float64, generator=generator) for shape in ((64,), (64, LENGTH)))
    t = 1e-3 + 0.999 * v
    x = model.graph.perturb(x0, -torch.log1p(-0.999 * t), u)
    p = model.log_p_x0(x, t).double().exp()
    alpha = (1 - t)[:, None, None]
    bar, bar_theta = N * alpha * torch.nn.functional.one_hot(x0, N) + 1 - alpha, N * alpha * p + 1 - alpha
    at, at_theta = (value.gather(-1, x[..., None]) for value in (bar, bar_theta))
    inner = (bar / at * (at_theta.log() - bar_theta.log() + bar.log() - at.log())).sum(-1, keepdim=True)
    expected = (-1 / (N * alpha) * (N / at - N / at_theta - inner)).sum((1, 2))
    found = udlm(model.score, x0, v, u, None)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert found.dtype == torch.float64


def exact_radd(model, x0):
    """∫ dλ of Σ −log p/λ: L/k · the mean over sets of k masks, averaged over k."""
    length, total = len(x0), 0.0
    for k in range(1, length + 1):
        sets = list(combinations(range(length), k))
        x = x0.expand(len(sets), -1).clone()
        for row, masked in zip(x, sets, strict=True):
            row[list(masked)] = N
        nats = -model.log_p_x0(x, torch.full((len(sets),), 0.5)).gather(-1, x0.expand(len(sets), -1)[..., None])[..., 0]
        total += float((nats * (x == N)).sum()) / len(sets) / k
    return total


@pytest.mark.parametrize("with_cost", [False, True])
def test_radds_loss_has_the_mean_over_all_that_can_be_masked(tmp_path, with_cost):
    save_radd_hub(tmp_path / "m")
    model = open_model(tmp_path / "m", "cpu")
    x0 = torch.tensor([0, 2, 1, 1, 0, 2])
    draws = 20_000
    generator = torch.Generator().manual_seed(0)
    v = (torch.arange(draws) + torch.rand(draws, dtype=torch.float64, generator=generator)) / draws
    u = torch.rand(draws, LENGTH, dtype=torch.float64, generator=generator)
    cost = torch.tensor([0.7, 1.3, 1.1], dtype=torch.float64)[x0].expand(draws, -1) if with_cost else None
    with torch.no_grad():
        found = radd(model.score, x0.expand(draws, -1), v, u, cost)
    error = float(found.std()) / draws**0.5
    assert abs(float(found.mean()) - exact_radd(model, x0)) < 4 * error
    assert error < 0.05


def test_radds_loss_bounds_the_likelihood_of_texts_in_random_order(tmp_path):
    """By enumeration: never below −log of the mean over all orders of their probabilities."""
    from itertools import permutations

    save_radd_hub(tmp_path / "m")
    model = open_model(tmp_path / "m", "cpu")
    x0 = torch.tensor([0, 2, 1, 1])
    orders = list(permutations(range(4)))
    log_p = torch.zeros(len(orders), dtype=torch.float64)
    x = torch.full((len(orders), 4), N)
    for step in range(4):
        at = torch.tensor([order[step] for order in orders])
        rows = torch.arange(len(orders))
        found = model.log_p_x0(x, torch.full((len(orders),), 0.5)).double()
        log_p += found[rows, at, x0[at]]
        x[rows, at] = x0[at]
    truth = -float(torch.logsumexp(log_p, 0) - torch.tensor(len(orders)).log())
    assert exact_radd(model, x0) >= truth
