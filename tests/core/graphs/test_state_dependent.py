"""State-dependent masking: its parts against the equations it is made of, and a whole model of it by enumeration."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import reference
import torch
import torch.nn.functional as F
from support.toys import ALL

from sedd_cli.core import placement
from sedd_cli.core.bounds import end_terms, rigorous_bound, sampled_range
from sedd_cli.core.graphs import GRAPHS, exponential
from sedd_cli.core.graphs.state_dependent import StateDependent
from sedd_cli.core.graphs.token_masking import ConstantMasking
from sedd_cli.core.losses.score_entropy import score_entropy
from sedd_cli.core.samplers import SAMPLERS
from sedd_cli.core.samplers.tweedie import tweedie_step
from sedd_cli.core.schedules import SCHEDULES
from sedd_cli.core.score import ScoreModel
from sedd_cli.testing.problems import probabilities

N, L, F64 = 3, 2, {"dtype": torch.float64}
W = torch.tensor([0.4, 1.0, 2.7], **F64)
SIGMA = torch.tensor([1e-6, 1e-3, 0.05, 0.7, 4.0, 30.0], **F64)


def learned(w: torch.Tensor = W, power: float = 1.0) -> StateDependent:
    return StateDependent(len(w), power).learned((w / power).log())


@pytest.mark.parametrize("sigma", SIGMA.tolist())
def test_a_token_is_masked_with_probability_lambda_to_its_exponent(sigma):
    graph, lam = learned(power=2.0), -math.expm1(-sigma)
    P = graph.transition_matrix(torch.tensor(sigma, **F64))
    torch.testing.assert_close(P[N, :N], lam**W, rtol=1e-12, atol=0)
    torch.testing.assert_close(P[:N, :N].diagonal(), -torch.expm1(W * math.log(lam)), rtol=1e-9, atol=1e-15)
    assert float(P[N, N]) == 1
    assert float((P[:N, :N] - P[:N, :N].diagonal().diag()).abs().max()) == 0
    x0, x = torch.tensor([0, 0, 1, 2]), torch.tensor([0, N, N, 2])
    level = torch.full((4,), sigma, **F64)
    torch.testing.assert_close(graph.log_probability(level, x, x0), P[x, x0].log(), rtol=1e-9, atol=1e-12)
    assert torch.isneginf(graph.log_probability(level, torch.tensor([1, 2, 0, 1]), x0)).all()
    if sigma < 10:
        torch.testing.assert_close(graph.transition_matrix(torch.tensor(-sigma, **F64)) @ P, torch.eye(N + 1, **F64))


def test_the_plain_forms_of_the_base_class_are_the_same():
    graph, plain = learned(), GRAPHS["absorbing"]
    x0 = torch.tensor([0, 1, 2])
    assert torch.equal(plain(vocab_size=3).log_probability(SIGMA[3].expand(3), x0, x0), (-SIGMA[3]).expand(3))
    for sigma in (0.05, 0.7, 4.0):
        level, x = torch.full((N + 1,), sigma, **F64), torch.arange(N + 1)
        torch.testing.assert_close(graph.transition_into(level, x), graph.transition_matrix(level[0]))
        values = torch.rand(N + 1, N + 1, generator=torch.Generator().manual_seed(0), **F64)
        torch.testing.assert_close(graph.propagate(level, values), values @ graph.transition_matrix(level[0]).T)
        z = torch.randn(2, N + 1, generator=torch.Generator().manual_seed(1), **F64)
        at_mask = torch.full((2,), N)
        found = graph.mean_score(z, level[:2], at_mask)
        torch.testing.assert_close(found[:, :N], super(StateDependent, graph).mean_score(z, level[:2], at_mask)[:, :N])
        p0 = torch.rand(N + 1, N, generator=torch.Generator().manual_seed(2), **F64)
        truth = super(StateDependent, graph).posterior(p0, level / 3, level, x)
        torch.testing.assert_close(graph.posterior(p0, level / 3, level, x), truth)
        score = graph.mean_score(torch.randn(5, N + 1, **F64), level[:1], torch.full((5,), N))
        torch.testing.assert_close(graph.normaliser(score, level[:1]), torch.ones(5, **F64))
        assert float(score[:, :N].max()) <= float(graph.largest_score(level[0]))
        moved = graph.perturb(torch.arange(N).repeat(3000, 1), level[:1], torch.rand(3000, N, **F64))
        assert float(((moved == N).double().mean(0) - graph.shares(level[0])[1]).abs().max()) < 0.04


def test_rates_lead_from_one_level_of_noise_to_the_next():
    graph, eye = learned(), torch.eye(N + 1, **F64)
    for s, t in itertools.combinations(SIGMA[:5], 2):
        step = graph.between(s, t).transition_matrix(t - s)
        torch.testing.assert_close(step @ graph.transition_matrix(s), graph.transition_matrix(t), rtol=1e-9, atol=1e-12)
    for sigma in (0.05, 0.7, 4.0):
        s = torch.tensor(sigma, **F64)
        slope = (graph.between(s, s + 1e-6).transition_matrix(torch.tensor(1e-6, **F64)) - eye) / 1e-6
        torch.testing.assert_close(graph.between(s, s).rate_matrix, slope, atol=1e-4, rtol=1e-4)
    # many short steps by the rates at each level: the ordered exponential
    P, levels = eye, torch.tensor(np.geomspace(1e-3, 4.0, 4001), **F64)
    for s, t in itertools.pairwise(levels):
        middle = (s * t).sqrt()
        P = torch.matrix_exp((t - s) * graph.between(middle, middle).rate_matrix) @ P
    whole = graph.between(levels[0], levels[-1]).transition_matrix(levels[-1] - levels[0])
    torch.testing.assert_close(P, whole, rtol=0, atol=1e-5)


def test_constant_masking_is_the_exponential_of_its_rates():
    graph, x = ConstantMasking(N, W), torch.arange(N + 1)
    Q = graph.rate(x).T
    torch.testing.assert_close(graph.rate_into(x), Q - Q.diag().diag())
    for sigma in SIGMA:
        P = exponential.columns(Q, sigma.expand(N + 1), x).T
        torch.testing.assert_close(graph.transition_matrix(sigma), P, rtol=1e-9, atol=1e-13)
        torch.testing.assert_close(graph.transition_into(sigma.expand(N + 1), x), P, rtol=1e-9, atol=1e-13)
    # rates of several sequences, positions and states
    rates = torch.stack([W, 2 * W])
    found = ConstantMasking(N, rates).rate_into(torch.full((2, 5), N))
    torch.testing.assert_close(found[1, 3, :N], 2 * W)


def test_rates_are_those_of_one_generator_only_where_all_exponents_are_one():
    assert float(StateDependent(N).rate_matrix[N, 0]) == 1
    for graph in (learned(), StateDependent(N, power=2.0)):
        with pytest.raises(ValueError, match="depend on noise: take those of `between`"):
            graph.rate(torch.tensor([0]))
    with pytest.raises(ValueError, match="power must be positive and finite"):
        StateDependent(N, power=0.0)
    with pytest.raises(ValueError, match="has no exponents"):
        _ = GRAPHS["absorbing"](vocab_size=3).exponents


@pytest.mark.parametrize(("s", "t"), [(1e-5, 0.3), (0.3, 0.31), (0.5, 6.9)])
def test_the_tweedie_step_is_the_ancestral_step(s, t):
    """p(x_s|x_t = MASK) = Σ_y μ_y·p(x_s|x_t, y): y with μ_y·(α_s − α_t)/(1 − α_t), and MASK with the rest."""
    graph, s, t = learned(), torch.tensor([s], **F64), torch.tensor([t], **F64)
    z, x = torch.randn(1, N + 1, generator=torch.Generator().manual_seed(0), **F64), torch.tensor([N])
    mu = z[:, :N].softmax(-1)
    step = tweedie_step(graph.between(s, t), graph.mean_score(z, t, x), x, t - s)
    alpha_s, alpha_t = (1 - (-torch.expm1(-sigma)) ** W for sigma in (s, t))
    moved = mu * (alpha_s - alpha_t) / (1 - alpha_t)
    torch.testing.assert_close(probabilities(step, x), torch.cat([moved, 1 - moved.sum(-1, keepdim=True)], -1))
    torch.testing.assert_close(graph.posterior(mu, s, t, x), probabilities(step, x))


# A model of two tokens, by enumeration


class Table(torch.nn.Module):
    """Logits of the clean token [B, L, N + 1] that depend on both tokens and on sigma."""

    def __init__(self, spread: float = 1.0):
        super().__init__()
        generator = torch.Generator().manual_seed(4)
        self.at, self.slope = torch.nn.Parameter(
            spread * torch.randn(2, (N + 1) ** L, L, N + 1, generator=generator, **F64)
        )

    def hidden(self, x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        flat = x[:, 0] * (N + 1) + x[:, 1]
        return self.at[flat] + torch.exp(-sigma)[:, None, None] * self.slope[flat]

    def head(self, hidden: torch.Tensor) -> torch.Tensor:
        return hidden


class Clean(torch.nn.Module):
    """The exact log p(x0_i = y|x_t) of a distribution p0 [N, N] under the graph."""

    def __init__(self, p0: torch.Tensor, graph: StateDependent):
        super().__init__()
        self.p0, self.graph = p0, graph

    def hidden(self, x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        one, other = (self.graph.transition_into(sigma, x[:, i])[:, :N] for i in range(L))
        joint = self.p0 * one[:, :, None] * other[:, None, :]
        return F.pad(torch.stack([joint.sum(2), joint.sum(1)], 1).log(), (0, 1), value=-math.inf)

    def head(self, hidden: torch.Tensor) -> torch.Tensor:
        return hidden


def source() -> torch.Tensor:
    p0 = torch.rand(N, N, generator=torch.Generator().manual_seed(3), **F64) ** 3 + 0.02
    return p0 / p0.sum()


def model(net: torch.nn.Module, noise: str = "loglinear", graph: StateDependent | None = None, **options) -> ScoreModel:
    return ScoreModel(net, graph or learned(), SCHEDULES[noise](**options), parametrization="mean")


STATES = reference.sequences(N + 1, L)


def text_probabilities(made: ScoreModel, cells: int = 3000) -> torch.Tensor:
    """p [S^L] of the texts of the continuous reverse process: from all MASK, token y in place of MASK at the rate
    w_y·μ_y·dλ/λ, and what is left at T_END decoded by Bayes' rule. No function of the graph is used but its exponents.
    """
    low, high = sampled_range(made)
    w, S = made.graph.exponents, N + 1
    places = torch.tensor([S, 1])

    def mu(sigma: torch.Tensor) -> torch.Tensor:
        """The network's distributions at noise levels [M]: [M, S^L, L, N]."""
        x = STATES.repeat(len(sigma), 1)
        z = made.net.head(made.net.hidden(x, sigma.repeat_interleave(len(STATES))))
        return z[..., :N].softmax(-1).view(len(sigma), *STATES.shape, N)

    def moves(rates: torch.Tensor) -> torch.Tensor:
        Q = torch.zeros(len(rates), S**L, S**L, **F64)
        for x, state in enumerate(STATES):
            for i in range(L):
                if state[i] == N:
                    for y in range(N):
                        Q[:, x + (y - N) * int(places[i]), x] += rates[:, x, i, y]
        return Q - torch.diag_embed(Q.sum(1))

    p = torch.zeros(S**L, **F64)
    p[-1] = 1
    levels = torch.tensor(np.geomspace(high, low, cells + 1))
    steps = -torch.log(-torch.expm1(-levels)).diff()  # of log λ
    rates = moves(w * mu((levels[1:] * levels[:-1]).sqrt()))
    for step in torch.matrix_exp(rates * steps[:, None, None]):
        p = step @ p
    decode = mu(levels[-1:])[0] * -torch.expm1(w * math.log(-math.expm1(-levels[-1])))  # μ_y·α_y
    decode = decode / decode.sum(-1, keepdim=True)
    found = torch.zeros(S**L, **F64)
    for x, state in enumerate(STATES):
        for text in itertools.product(range(N), repeat=L):
            if all(state[i] in (N, text[i]) for i in range(L)):
                chosen = [decode[x, i, text[i]] for i in range(L) if state[i] == N]
                found[text[0] * S + text[1]] += p[x] * math.prod(chosen)
    return found


def masks(made: ScoreModel, x0: torch.Tensor, sigma: float, full: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Uniforms u [4, L] for each choice of masked positions, and its probability [4]; full: given MASK at t = 1."""
    lam = -math.expm1(-sigma) / ((full and -math.expm1(-made.schedule.sigma(1.0))) or 1.0)
    p = lam ** made.graph.exponents.detach()[x0]
    masked = torch.tensor(list(itertools.product([False, True], repeat=L)))
    weight = torch.where(masked, p, 1 - p).prod(-1)
    # a draw by inverse CDF, in the order token, MASK; `perturb` masks where u < p
    return torch.where(masked, 1 - p / 2, (1 - p) / 2) if full else torch.where(masked, p / 2, (1 + p) / 2), weight


def mean_bound(made: ScoreModel, x0: torch.Tensor) -> float:
    """The expectation of the rigorous bound: a quadrature over v, all corruptions."""
    low, high = sampled_range(made)
    u, weight = masks(made, x0, low, full=True)
    total = float((end_terms(made, x0.expand(4, -1), u) * weight).sum())
    edges = placement.table(low, high, L)[1].tolist()
    points, shares = np.polynomial.legendre.leggauss(4)
    for start, end in itertools.pairwise(edges):
        for point, share in zip(points.tolist(), shares.tolist(), strict=True):
            v = torch.full((4,), 0.5 * ((end - start) * point + end + start), **F64)
            sigma = float(placement.placed_sigma(v, low, high, L)[0][0])
            u, weight = masks(made, x0, sigma, full=True)
            half = torch.full_like(u, 0.5)
            found = rigorous_bound(made, x0.expand(4, -1), v, u, half) - end_terms(made, x0.expand(4, -1), half)
            total += 0.5 * (end - start) * share * float((found * weight).sum())
    return total


@pytest.mark.parametrize(
    ("noise", "options", "exact"),
    [
        ("loglinear", {}, True),
        ("geometric", {"sigma_min": 0.3, "sigma_max": 3.0}, False),
        *([("loglinear", {}, False), ("cosine", {}, True), ("cosine", {}, False)] if ALL else []),
    ],
)
def test_the_bound_is_a_bound_of_the_reverse_process(noise, options, exact, monkeypatch):
    monkeypatch.setattr(placement, "CELLS", 16)
    net = Clean(source(), learned()) if exact else Table()
    with torch.no_grad():
        made = model(net, noise, **options)
        p = text_probabilities(made)
        assert float(p.sum()) == pytest.approx(1.0)
        slack = []
        for x0 in itertools.product(range(N), repeat=L):
            bound = mean_bound(made, torch.tensor(x0))
            slack.append(bound + math.log(float(p[x0[0] * (N + 1) + x0[1]])))
    assert min(slack) > -1e-4  # what the reverse process is solved to
    if not exact:
        assert max(slack) > 0.01
    elif noise != "geometric":  # there much noise is left for the last step, which decodes position by position
        assert max(slack) < 5e-3


def test_the_loss_of_the_bound_is_the_sum_over_masks_of_weighted_cross_entropies():
    """Shi et al. 2024, section 6: −w_{x0} log μ_{x0} − w_{x0} + Σ w μ, times dλ/λ."""
    graph, sigma = learned(), torch.tensor([0.3, 1.2, 4.0], **F64)
    z, x = torch.randn(3, N + 1, generator=torch.Generator().manual_seed(0), **F64), torch.full((3,), N)
    x0, mu = torch.tensor([0, 1, 2]), z[:, :N].softmax(-1)
    found = score_entropy(graph, graph.mean_score(z, sigma, x), sigma, x, x0)
    nats = -mu[torch.arange(3), x0].log()
    truth = (W[x0] * (nats - 1) + mu @ W) / torch.expm1(sigma)
    torch.testing.assert_close(found, truth)


@pytest.mark.parametrize("name", ["tweedie", *["euler"] * ALL])
def test_samples_follow_the_models_distribution(name):
    from support.toys import follows

    from sedd_cli.core.conditioning import Conditioning

    with torch.no_grad():
        made = model(Table())
        p, draws = text_probabilities(made), 4000
        given = Conditioning(torch.zeros(draws, L, dtype=torch.bool), torch.zeros(draws, L, dtype=torch.int64))
        sampler = SAMPLERS[name](steps={"tweedie": 200, "euler": 1000}[name])
        *_, last = sampler.run(made, given, 1, torch.arange(draws))
    follows(last.x, p, N + 1)
