"""The other objectives against dense sums: the mean parametrisation, D3PM, masked cross-entropy, concrete scores."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import pytest
import reference
import torch
from support.toys import N, base, every_graph, every_kind_of_graph, noisy, rate_matrix, world

from sedd_cli.core.bounds import discrete_bound, paper_bound, prior, rigorous_bound
from sedd_cli.core.discrete_time import step_noise, total_noise
from sedd_cli.core.fast import KERNELS, kernels_of
from sedd_cli.core.graphs import GRAPHS
from sedd_cli.core.losses import OBJECTIVES
from sedd_cli.core.losses.concrete_score import concrete_score_error
from sedd_cli.core.losses.score_entropy import score_entropy, sequence_score_entropy, weighted_score_entropy
from sedd_cli.core.samplers.tweedie import tweedie_step
from sedd_cli.core.schedules import SCHEDULES
from sedd_cli.core.score import ScoreModel, trained_range

F64 = {"dtype": torch.float64}
SIGMAS = [1e-4, 0.05, 0.7, 6.0]


class KnownDistribution:
    """A network whose outputs are logits of the clean tokens, looked up; MASK's column holds anything."""

    def __init__(self, distribution, states):
        self.distribution, self.states = distribution, states

    def hidden(self, x, sigma):
        z = torch.full((*x.shape, self.states), 7.0, **F64)
        for level in sigma.unique().tolist():
            rows = sigma == level
            z[rows, :, :N] = self.distribution(x[rows], level).log()
        return z

    def head(self, hidden):
        return hidden


def wrong_distribution(p0, Q, spread=0.8):
    """The true distribution of the clean tokens, every probability off by its own factor."""
    right = reference.clean_posterior(p0, Q, N)
    table = spread * torch.randn(len(Q) ** p0.dim(), p0.dim(), N, generator=torch.Generator().manual_seed(3), **F64)
    place = torch.tensor([len(Q) ** i for i in reversed(range(p0.dim()))])

    def distribution(x, sigma):
        p = right(x, sigma) * table[(x * place).sum(-1)].exp() + 1e-6
        return p / p.sum(-1, keepdim=True)

    return distribution


def mean_model(name, L, distribution=wrong_distribution, noise="loglinear"):
    graph, Q, p0 = world(name, L)
    distribution = distribution(p0, Q)
    return (
        ScoreModel(KnownDistribution(distribution, graph.states), graph, SCHEDULES[noise](), parametrization="mean"),
        Q,
        p0,
        distribution,
    )


def random_distribution(seed: int) -> torch.Tensor:
    return torch.randn(N, generator=torch.Generator().manual_seed(seed), **F64).mul(2).softmax(-1)


def one(value, dtype=torch.float64):
    return torch.tensor([value], dtype=dtype)


def outputs(graph, p):
    """z [1, S] whose softmax over the tokens is p."""
    return torch.cat([p.log(), torch.full((graph.states - N,), -3.0, **F64)])[None]


@every_graph
@pytest.mark.parametrize("sigma", SIGMAS)
def test_the_mean_parametrisation_is_the_sum_over_clean_tokens(name, sigma):
    graph, Q = GRAPHS[name](vocab_size=N), rate_matrix(name, N)
    for seed, x in itertools.product(range(4), range(graph.states)):
        if not bool(graph.active(torch.tensor(x))):
            continue
        p = random_distribution(seed)
        found = graph.mean_score(outputs(graph, p), one(sigma), torch.tensor([x])).exp()[0]
        truth = reference.mean_score(Q, sigma, x, p)
        truth[x] = 1.0
        torch.testing.assert_close(found[:N], truth[:N], rtol=1e-9, atol=0)
        if kernels := kernels_of(graph):
            assert float(found[:N].sum()) <= float(kernels.mean_total(one(sigma)))


@pytest.mark.parametrize("name", KERNELS)
def test_the_bound_on_mean_scores_is_met_at_a_corner(name):
    graph = GRAPHS[name](vocab_size=N)
    z = torch.full((1, graph.states), -60.0, **F64)
    z[0, 1] = 0.0
    x = torch.tensor([graph.states - 1])
    total = graph.mean_score(z, one(0.3), x).exp()[:, :N].sum()
    assert 0.999 < float(total) / float(kernels_of(graph).mean_total(one(0.3))) <= 1


@every_graph
@pytest.mark.parametrize("sigma", [0.05, 0.7])
def test_the_true_distribution_of_the_clean_tokens_gives_the_true_score(name, sigma):
    model, Q, p0, _ = mean_model(name, 2, lambda p0, Q: reference.clean_posterior(p0, Q, N))
    x = reference.sequences(model.graph.states, 2)
    found = model.log_score(x, torch.full((len(x),), sigma, **F64)).exp()
    truth = reference.exact_score(p0, Q)(x, sigma)
    used = model.graph.active(x)
    torch.testing.assert_close(found[used][:, :N], truth[used][:, :N], rtol=1e-8, atol=1e-12)


@every_graph
@pytest.mark.parametrize(("sigma_s", "sigma_t"), [(0.0, 0.1), (0.3, 0.35), (0.7, 5.0)])
def test_posteriors_are_products_of_dense_transitions(name, sigma_s, sigma_t):
    """Their divergence, and the step that the Tweedie sampler takes, which is D3PM's own."""
    graph, Q = GRAPHS[name](vocab_size=N), rate_matrix(name, N)
    P = reference.transition(Q, sigma_t)
    for seed, x, x0 in itertools.product(range(3), range(graph.states), range(N)):
        if P[x, x0] == 0:
            continue
        p, at = random_distribution(seed), torch.tensor([x])
        mine = reference.mean_step(Q, sigma_s, sigma_t, x, p)
        divergence = graph.posterior_kl(outputs(graph, p), one(sigma_s), one(sigma_t), at, torch.tensor([x0]))
        truth = reference.kl(reference.step_posterior(Q, sigma_s, sigma_t, x, x0), mine)
        active = bool(graph.active(at))
        assert float(divergence) == pytest.approx(truth if active else 0.0, rel=1e-9, abs=1e-11)
        if active:
            score = graph.mean_score(outputs(graph, p), one(sigma_t), at)
            transition = tweedie_step(graph, score, at, one(sigma_t - sigma_s))
            distribution = transition.move_probability[0] * transition.weights[0] / transition.weights[0].sum()
            distribution[x] += 1 - transition.move_probability[0]
            torch.testing.assert_close(distribution, mine, rtol=1e-9, atol=1e-12)


@every_graph
@pytest.mark.parametrize("noise", SCHEDULES)
@pytest.mark.parametrize("steps", [1, 3, 8])
def test_the_discrete_bound_is_the_enumerated_one(name, noise, steps):
    """Every term, every x_t; at least −log of what ancestral sampling gives; the training loss is the same number."""
    model, Q, _, distribution = mean_model(name, 2, noise=noise)
    low, high = trained_range(model)
    x0 = torch.tensor([2, 0])
    every = (torch.arange(steps, **F64) + 0.5) / steps
    levels = [0.0, *step_noise(model, every, steps)[1].clamp(max=60.0).tolist()]
    truth = reference.discrete_terms(lambda x, sigma: distribution(x, min(max(sigma, low), high)), Q, levels, x0)
    from_prior = float(prior(model, x0[None]))
    objective = OBJECTIVES["d3pm"](T=steps)
    for t, v in enumerate(every.tolist()):
        u, weight = noisy(model.graph, Q, x0, levels[t + 1])
        rows = x0.expand(len(u), 2), torch.full((len(u),), v, **F64), u
        found = discrete_bound(replace(model, steps=steps), *rows) - from_prior
        assert float((weight * found).sum()) / steps == pytest.approx(truth[t], rel=1e-7, abs=1e-10)
        torch.testing.assert_close(objective.loss(model, *rows).sequences.double(), found.double())


def ancestral(model, Q, distribution, levels, L=2):
    """p(x0) [S^L] of the reverse chain through the levels, from p_base."""
    S = len(Q)
    low, high = trained_range(model)
    p = reference.joint(base(model.graph.name, N).expand(1, L, S))[0]
    xs = reference.sequences(S, L)
    for sigma_s, sigma_t in reversed(list(itertools.pairwise(levels))):
        distributions = distribution(xs, min(max(sigma_t, low), high))
        new = torch.zeros_like(p)
        for row, x in enumerate(xs.tolist()):
            steps = []
            for i in range(L):
                here = torch.zeros(S, **F64)
                here[x[i]] = 1.0
                moves = bool(model.graph.active(torch.tensor(x[i])))
                steps.append(reference.mean_step(Q, sigma_s, sigma_t, x[i], distributions[row, i]) if moves else here)
            new += p[row] * reference.joint(torch.stack(steps)[None])[0]
        p = new
    return p


@every_graph
@pytest.mark.parametrize("noise", SCHEDULES)
def test_the_noise_of_the_steps_is_even_in_masks_or_that_of_the_schedule(name, noise):
    """λ = k/T after step k where there is a MASK, up to infinite noise; else the schedule at k/T. At first none."""
    model, *_ = mean_model(name, 2, noise=noise)
    before, after = step_noise(model, torch.tensor([0.0, 0.3, 0.6, 0.99], **F64), 4)
    if model.graph.mask is None:
        expected = [0.0] + [model.schedule.sigma(k / 4) for k in range(1, 5)]
    else:
        expected = [0.0, *(-math.log(1 - k / 4) for k in range(1, 4)), math.inf]
    assert before.tolist() == pytest.approx(expected[:-1], rel=1e-12)
    assert after.tolist() == pytest.approx(expected[1:], rel=1e-12)


@every_graph
@pytest.mark.parametrize("scale", [1.0, 2000.0])
def test_the_first_steps_divergence_is_the_cross_entropy_however_unlikely_the_token(name, scale):
    """Beside a logit that is larger by more than 700, a softmax in float64 is 0; the divergence goes on growing."""
    graph = GRAPHS[name](vocab_size=N)
    z = scale * torch.tensor([[0.0, 0.7, 1.0] + [0.0] * (graph.states - N)])
    z.requires_grad_()
    x, x0 = torch.tensor([N - 1 if graph.mask is None else N]), torch.tensor([0])
    sigma_s, sigma_t = torch.zeros(1, **F64), torch.full((1,), 1e-3, **F64)
    found = graph.posterior_kl(z, sigma_s, sigma_t, x, x0)
    truth = -z[:, :N].double().log_softmax(-1)[:, 0]
    torch.testing.assert_close(found.double(), truth, rtol=1e-6, atol=0)
    (gradient,) = torch.autograd.grad(found.sum(), z)
    assert float(gradient[0, 0]) == pytest.approx(float(z[0, :N].detach().softmax(-1)[0]) - 1, rel=1e-5)


@every_graph
def test_the_discrete_bound_is_one_on_what_ancestral_sampling_gives(name):
    steps = 4
    model, Q, _, distribution = mean_model(name, 2)
    every = (torch.arange(steps, **F64) + 0.5) / steps
    levels = [0.0, *step_noise(model, every, steps)[1].clamp(max=60.0).tolist()]
    p = ancestral(model, Q, distribution, levels)
    assert float(p.sum()) == pytest.approx(1, rel=1e-9)
    gaps = []
    for x0 in reference.sequences(N, 2):
        bound = sum(
            reference.discrete_terms(
                lambda x, s: distribution(x, min(max(s, trained_range(model)[0]), trained_range(model)[1])),
                Q,
                levels,
                x0,
            )
        )
        bound += float(prior(model, x0[None]))
        place = int((x0 * torch.tensor([len(Q), 1])).sum())
        gaps.append(bound + math.log(float(p[place])))
    assert min(gaps) >= -1e-9
    assert max(gaps) < 1.5  # and not a loose one


@every_kind_of_graph
def test_many_steps_come_to_the_bound_in_continuous_time(name):
    """The mean of `discrete_bound` over all x_t and t > 1, as T grows, and the integral of the score entropy."""
    model, Q, _, distribution = mean_model(name, 2)
    x0 = torch.tensor([1, 2])
    low, high = trained_range(model)

    def score(x, sigma):
        """Of the network that is told a sigma in range."""
        inside = min(max(sigma, low), high)
        found = distribution(x, inside)
        rows = [
            [reference.mean_score(Q, sigma, int(v), found[r, i]) for i, v in enumerate(row)] for r, row in enumerate(x)
        ]
        return torch.stack([torch.stack(row) for row in rows]).scatter(-1, x[..., None], 1.0)

    apart = []
    for steps in (16, 64, 256):
        every = (torch.arange(steps, **F64) + 0.5) / steps
        levels = step_noise(model, every, steps)[1].clamp(max=30.0).tolist()
        # below the first level there is the reconstruction, in one step
        pieces = [levels[0], *[s for s in (low, high) if levels[0] < s < levels[-1]], levels[-1]]
        continuous = sum(reference.loss_integral(score, Q, x0, a, b, 24) for a, b in itertools.pairwise(pieces))
        total = -float(prior(model, x0[None])) * (steps - 1) / steps
        for v, sigma in zip(every.tolist()[1:], levels[1:], strict=True):
            u, weight = noisy(model.graph, Q, x0, sigma)
            found = discrete_bound(
                replace(model, steps=steps), x0.expand(len(u), 2), torch.full((len(u),), v, **F64), u
            )
            total += float((weight * found).sum()) / steps
        apart.append(total - continuous)
    assert abs(apart[0]) > abs(apart[1]) > 2 * abs(apart[2])
    assert abs(apart[2]) < (0.01 if name in ("hybrid", "gaussian") else 0.005)


def test_masked_cross_entropy_is_weighted_cross_entropy_and_the_score_entropy_of_its_scores():
    model, _, _, distribution = mean_model("absorbing", 3)
    objective = OBJECTIVES["masked_cross_entropy"]()
    x0 = torch.tensor([[0, 1, 2], [2, 2, 0], [1, 0, 1]])
    v, u = torch.tensor([0.1, 0.5, 0.9], **F64), torch.rand(3, 3, generator=torch.Generator().manual_seed(0), **F64)
    t = 1e-3 + (1 - 1e-3) * v
    sigma, _ = model.schedule(t)
    x = model.graph.perturb(x0, sigma, u)
    found = objective.loss(model, x0, v, u).sequences
    for b in range(3):
        p = distribution(x[b : b + 1], float(sigma[b]))[0]
        ce = sum(-float(p[i, x0[b, i]].log()) for i in range(3) if x[b, i] == N)
        assert float(found[b]) == pytest.approx(ce / float(t[b]), rel=1e-6)  # w = 1/t under loglinear noise
    raw = replace(
        model,
        parametrization="score",
        net=reference.Oracle(
            lambda x, s: torch.cat([distribution(x, s), torch.ones(*x.shape, 1, **F64)], -1) / math.expm1(s), N
        ),
    )
    torch.testing.assert_close(paper_bound(raw, x0, v, u).double(), found.double(), rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(paper_bound(model, x0, v, u).double(), found.double(), rtol=1e-6, atol=1e-9)


def test_concrete_score_matching_takes_the_rates_of_the_noise_level():
    """Where tokens have masking rates of their own, which depend on noise, they are those at sigma."""
    graph, sigma, log_score = GRAPHS["state_dependent"](vocab_size=N, power=1.7), one(0.7), torch.zeros(1, N + 1, **F64)
    x, x0 = torch.tensor([N]), torch.tensor([1])
    rate = graph.between(sigma, sigma).rate_into(x)[0]
    r = graph.log_ratio(sigma, x, x0)[0].exp()
    truth = sum(float(rate[y] * (1 - r[y]) ** 2 / 2) for y in range(N))
    assert float(concrete_score_error(graph, log_score, sigma, x, x0)) == pytest.approx(truth, rel=1e-12)
    assert truth > 0


@every_graph
@pytest.mark.parametrize("sigma", [1e-2, 0.7, 6.0])
def test_concrete_score_matching_is_the_squared_error_under_the_same_rates(name, sigma):
    graph, Q = GRAPHS[name](vocab_size=N), rate_matrix(name, N)
    P = reference.transition(Q, sigma)
    for seed, (x, x0) in enumerate(itertools.product(range(graph.states), range(N))):
        if P[x, x0] == 0:
            continue
        log_score = torch.randn(1, graph.states, generator=torch.Generator().manual_seed(seed), **F64)
        log_score[0, x] = 0.0
        found = concrete_score_error(graph, log_score, one(sigma), torch.tensor([x]), torch.tensor([x0]))
        rates = [
            float(Q[x, y]) * float(log_score[0, y].exp() - P[y, x0] / P[x, x0]) ** 2 / 2
            for y in range(len(Q))
            if y != x
        ]
        truth = sum(rates)
        assert float(found) == pytest.approx(truth, rel=1e-9, abs=1e-12)
        if bool(graph.active(torch.tensor(x))):
            right = (P[:, x0] / P[x, x0]).log().clamp(min=-60)[None]
            assert float(concrete_score_error(graph, right, one(sigma), torch.tensor([x]), torch.tensor([x0]))) < 1e-12


@every_graph
@pytest.mark.parametrize("name_of", ["score_entropy", "concrete_score", "d3pm"])
def test_losses_in_blocks_have_the_gradient_of_one_block(name, name_of, monkeypatch):
    """Head outputs that are made anew in the backward pass change nothing."""
    from sedd_cli.core import score as score_module
    from sedd_cli.models.dit import DiT
    from sedd_cli.models.shape import DiTConfig

    graph, objective = GRAPHS[name](vocab_size=N), OBJECTIVES[name_of]()
    torch.manual_seed(0)
    net = DiT(DiTConfig(n_blocks=1, hidden_size=8, n_heads=2, cond_dim=4, dropout=0.0, length=6), graph.states).double()
    for p in net.parameters():
        torch.nn.init.normal_(p, std=0.4)
    model = ScoreModel(net, graph, SCHEDULES["loglinear"](), parametrization=objective.parametrization)
    x0 = torch.randint(N, (4, 6), generator=torch.Generator().manual_seed(1))
    v, u = (
        torch.tensor([0.2, 0.4, 0.6, 0.9], **F64),
        torch.rand(4, 6, generator=torch.Generator().manual_seed(2), **F64),
    )
    found = []
    for block in (2**23, 3 * graph.states):
        monkeypatch.setattr(score_module, "ROW_BLOCK", block)
        net.zero_grad()
        loss = objective.loss(model, x0, v, u)
        loss.total.backward()
        torch.testing.assert_close(loss.sequences.sum().double(), loss.total.detach().double())
        found.append([p.grad.clone() for p in net.parameters() if p.grad is not None])
    assert any(bool(g.abs().max() > 0) for g in found[0])
    for one_block, many in zip(*found, strict=True):
        torch.testing.assert_close(one_block, many, rtol=1e-9, atol=1e-12)


@every_graph
@pytest.mark.parametrize("name_of", ["score_entropy", "concrete_score"])
def test_a_weight_changes_the_gradient_and_not_the_loss_that_is_logged(name, name_of):
    """The gradient of a sequence at time t is (1 + p)·t^p times the one without a weight."""
    from sedd_cli.models.dit import DiT
    from sedd_cli.models.shape import DiTConfig

    graph = GRAPHS[name](vocab_size=N)
    net = DiT(DiTConfig(n_blocks=1, hidden_size=8, n_heads=2, cond_dim=4, dropout=0.0, length=6), graph.states).double()
    model = ScoreModel(net, graph, SCHEDULES["loglinear"]())
    x0, u = torch.tensor([[2, 0, 1]]), torch.tensor([[0.0, 0.0, 0.99]], **F64)
    for v in (0.0, 0.3, 0.9):
        plain = OBJECTIVES[name_of](0.1).loss(model, x0, one(v), u)
        found = OBJECTIVES[name_of](0.1, weight_power=0.5).loss(model, x0, one(v), u)
        t = 0.1 + 0.9 * v
        assert float(plain.total.detach()) > 0
        assert float(found.total.detach()) == pytest.approx(1.5 * t**0.5 * float(plain.total.detach()), rel=1e-6)
        torch.testing.assert_close(found.sequences, plain.sequences)


def test_cross_entropy_is_added_in_the_share_asked_for():
    model, _, _, distribution = mean_model("absorbing", 2)
    x0, v, u = torch.tensor([[2, 0]]), one(0.6), torch.tensor([[0.1, 0.9]], **F64)
    plain, more = (OBJECTIVES["d3pm"](10, share).loss(model, x0, v, u).total for share in (0.0, 0.25))
    _, sigma = step_noise(model, v, 10)
    x = model.graph.perturb(x0, sigma, u)
    assert x.tolist() == [[N, 0]]
    assert float(more - plain) == pytest.approx(-0.25 * float(distribution(x, float(sigma))[0, 0, 2].log()), rel=1e-6)


@every_graph
@pytest.mark.parametrize("count", [False, True])
def test_the_rigorous_bound_of_a_mean_model_is_that_of_its_scores(name, count):
    """The same estimates as through a network that is asked for those scores."""
    noise = "loglinear" if name == "absorbing" else "geometric"
    model, Q, _, distribution = mean_model(name, 2, noise=noise)
    if count and not model.graph.masking:
        pytest.skip("no count form")

    def score(x, sigma):
        found = distribution(x, sigma)
        rows = [
            [reference.mean_score(Q, sigma, int(v), found[r, i]) for i, v in enumerate(row)] for r, row in enumerate(x)
        ]
        return torch.stack([torch.stack(row) for row in rows]).scatter(-1, x[..., None], 1.0)

    scaled = getattr(model.graph, "scale_by_sigma", False)
    raw = replace(model, parametrization="score", net=reference.Oracle(score, N if scaled else None))
    generator = torch.Generator().manual_seed(0)
    x0, v = torch.randint(N, (6, 2), generator=generator), torch.rand(6, generator=generator, **F64)
    u, u_end = torch.rand(2, 6, 2, generator=generator, **F64)
    # the network is told a sigma in range, from which scores that are told take their scale; in range both agree
    sigma = total_noise(model, v)
    low, high = trained_range(model)
    v = v[(sigma > low) & (sigma < high)]
    rows = x0[: len(v)], v, u[: len(v)], u_end[: len(v)], count
    # without MASK the end term is below the range, where told scores are those of another sigma: 1e-4
    rtol = 1e-3 if model.graph.mask is None else 1e-6
    torch.testing.assert_close(
        rigorous_bound(model, *rows).double(), rigorous_bound(raw, *rows).double(), rtol=rtol, atol=1e-8
    )


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("d3pm", {"T": 0}, "T must be at least 1, found 0"),
        ("d3pm", {"cross_entropy": -1.0}, "cross_entropy must be at least 0"),
        ("concrete_score", {"t_min": 0.0}, r"t_min must lie in \(0, 1\)"),
        ("score_entropy", {"weight_power": -0.5}, r"weight_power must lie in \[0, 4\], found -0.5"),
        ("score_entropy", {"weight_power": float("nan")}, "weight_power must lie"),
    ],
)
def test_impossible_options_are_refused(name, options, message):
    with pytest.raises(ValueError, match=message):
        OBJECTIVES[name](**options)


def test_what_needs_a_mask_says_so():
    for name in ("masked_cross_entropy", "autoregressive"):
        with pytest.raises(ValueError, match=f"{name} needs a graph with MASK .*uniform is none"):
            OBJECTIVES[name]().check(GRAPHS["uniform"](vocab_size=N))


@every_graph
@pytest.mark.parametrize("grad", [True, False])
def test_logits_are_never_taken_for_scores(name, grad):
    """Also where the head is linear, and its outputs need not be held for the loss of scores."""
    from sedd_cli.models.dit import DiT
    from sedd_cli.models.shape import DiTConfig

    graph = GRAPHS[name](vocab_size=N)
    net = DiT(DiTConfig(n_blocks=1, hidden_size=8, n_heads=2, cond_dim=4, dropout=0.0, length=6), graph.states).double()
    generator = torch.Generator().manual_seed(0)
    for p in net.parameters():
        p.data = 0.5 * torch.randn(p.shape, generator=generator, **F64)
    model = ScoreModel(net, graph, SCHEDULES["loglinear"](), parametrization="mean")
    x0 = torch.randint(N, (4, 6), generator=generator)
    sigma = torch.tensor([0.1, 0.5, 1.5, 4.0], **F64)
    x = graph.perturb(x0, sigma, torch.rand(4, 6, generator=generator, **F64))
    with torch.set_grad_enabled(grad):
        found = sequence_score_entropy(model, x, sigma, x0)
        weighted = weighted_score_entropy(model, x, sigma, x0, torch.ones(4, **F64)).sequences
        scores = graph.mean_score(net(x, sigma), sigma, x)
        truth = torch.where(graph.active(x), score_entropy(graph, scores, sigma, x, x0), 0.0).sum(-1)
    torch.testing.assert_close(found, truth, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(weighted, truth, rtol=1e-9, atol=1e-12)
