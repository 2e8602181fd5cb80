"""The losses of other projects: their formulas written out, and sums over all that can be masked."""

from __future__ import annotations

from itertools import combinations

import pytest
import torch
from support.sedd_networks import LENGTH, N, save_gidd_hub, save_gidd_run, save_hub, save_radd_hub

from sedd_cli.checkpoints.load import open_model
from sedd_cli.core.peer_losses import gidd, gidd_at, radd, udlm


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


@pytest.mark.parametrize("p_uniform", [0.0, 0.2])
def test_gidds_elbo_and_training_loss_are_their_formulas(tmp_path, p_uniform):
    """Those of its latest code, with its least share of uniform noise, for vectors over a, b, c and MASK."""
    save_gidd_run(tmp_path / "m", p_uniform)
    model = open_model(tmp_path / "m", "cpu")
    generator = torch.Generator().manual_seed(0)
    x0, x = (torch.randint(size, (9, LENGTH), generator=generator) for size in (3, 4))
    x[:, 4:] = x0[:, 4:]
    mask = model.graph.mask
    x = torch.where(x == 3, mask, x)
    if p_uniform == 0:  # no other noise is ever seen
        x = torch.where(x == mask, mask, x0)
    t = torch.linspace(0.05, 0.95, 9, dtype=torch.float64)
    with torch.no_grad():
        found, training = gidd_at(model.score, x0, x, t)
        x_hat = model.net(x, model.schedule(t)[0].float())[..., :mask].double().softmax(-1)
    p = max(p_uniform, 2.0611536e-9)
    B, t = 2 * p / (1 - p), t[:, None]
    c, slope = B * (t * (1 - t)).sqrt(), B * (1 - 2 * t) / (2 * (t * (1 - t)).sqrt())
    alpha, m, w = (1 - t) / (1 + c), t / (1 + c), c / (1 + c)
    uniform = torch.tensor([1 / 3] * 3 + [0.0] * (mask - 3), dtype=torch.float64)  # spare rows are never drawn

    def noised(clean):
        clean = alpha[..., None] * clean + w[..., None] * uniform
        return torch.cat([clean, m[..., None].expand(*clean.shape[:2], 1)], -1)

    q, q_hat = noised(torch.nn.functional.one_hot(x0, mask).double()), noised(x_hat)
    kl = (torch.special.xlogy(q, q) - torch.special.xlogy(q, q_hat)).sum(-1)
    ratio = (q / q_hat).gather(-1, x[..., None])[..., 0]
    off = kl + ratio - ratio.log() - 1
    to_token = (c + (1 - t) * slope) / 3 / (1 - t)
    weights = torch.where(x == mask, 1 / (t * (1 - t)), to_token / torch.where(x == x0, 1 - t + c / 3, c / 3))
    torch.testing.assert_close(found, (weights * off).sum(1), rtol=1e-5, atol=1e-6)
    dynamic = torch.where(x == mask, 2.0, torch.where(x == x0, B / 4 * (torch.sigmoid(-t) / 2).exp(), 1.0))
    torch.testing.assert_close(training, (dynamic.clamp(max=2.0) * off).sum(1), rtol=1e-5, atol=1e-6)


def test_padding_is_seen_and_noised_by_gidd_and_not_counted(tmp_path):
    save_gidd_hub(tmp_path / "m")
    model = open_model(tmp_path / "m", "cpu")
    x0 = torch.zeros(2, LENGTH, dtype=torch.int64)
    v, u = (torch.rand(shape, dtype=torch.float64) for shape in ((2,), (2, LENGTH)))
    with torch.no_grad():
        whole, training = gidd(model.score, x0, v, u)
        parts = [gidd(model.score, x0, v, u, (torch.arange(LENGTH) == i).expand(2, -1)) for i in range(LENGTH)]
    torch.testing.assert_close(sum(elbo for elbo, _ in parts), whole)
    assert all(torch.equal(loss, training) for _, loss in parts)
