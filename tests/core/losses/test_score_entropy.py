"""The loss: equal to the generic sum of theorem 3.6, non-negative, minimal at the truth, finite in float32."""

import itertools
import math

import pytest
import reference
import torch
from support.toys import Cyclic, base, rate_matrix

from sedd_cli.core.fast import kernels_of
from sedd_cli.core.fast.base import ConcreteScoreTiles, Targets
from sedd_cli.core.graphs import GRAPHS
from sedd_cli.core.losses.concrete_score import concrete_score_error
from sedd_cli.core.losses.score_entropy import score_entropy

N = 4
SIGMAS = [1e-5, 1e-3, 0.05, 0.5, 2.0, 8.0, 20.0]
every_graph = pytest.mark.parametrize("name", GRAPHS)
F64 = {"dtype": torch.float64}


def reachable(name: str) -> list[tuple[int, int]]:
    """Every (x0, x) that the forward process can produce."""
    P = reference.transition(rate_matrix(name, N), 1.0)
    return [(x0, x) for x0, x in itertools.product(range(N), range(len(P))) if P[x, x0] > 0]


def true_log_ratio(name: str, sigma: float, x: int, x0: int) -> torch.Tensor:
    """log p(y | x0)/p(x | x0), with -inf where y cannot be reached."""
    P = reference.transition(rate_matrix(name, N), sigma)
    return (P[:, x0] / P[x, x0]).log()


def random_log_score(name: str, x: int, seed: int, spread: float = 2.0) -> torch.Tensor:
    log_score = spread * torch.randn(len(base(name, N)), generator=torch.Generator().manual_seed(seed), **F64)
    log_score[x] = 0.0
    return log_score


def loss_at(name: str, log_score: torch.Tensor, sigma: float, x: int, x0: int) -> torch.Tensor:
    graph = GRAPHS[name](vocab_size=N)
    return score_entropy(graph, log_score[None], torch.tensor([sigma], **F64), torch.tensor([x]), torch.tensor([x0]))[0]


@every_graph
@pytest.mark.parametrize("sigma", SIGMAS)
def test_loss_is_the_generic_sum_for_every_x0_and_x(name, sigma):
    Q = rate_matrix(name, N)
    for seed, (x0, x) in enumerate(reachable(name)):
        log_score = random_log_score(name, x, seed)
        truth = reference.score_entropy(Q, log_score.tolist(), sigma, x, x0)
        assert float(loss_at(name, log_score, sigma, x, x0)) == pytest.approx(truth, rel=1e-10, abs=1e-10)


@every_graph
@pytest.mark.parametrize("sigma", SIGMAS)
def test_loss_is_non_negative_and_zero_with_zero_gradient_at_the_true_ratio(name, sigma):
    for x0, x in reachable(name):
        truth = true_log_ratio(name, sigma, x, x0)
        # a ratio of 0 is approached, not reached: e^-60 of the loss is below every tolerance here
        truth = truth.clamp(min=-60 + math.log(sigma)).requires_grad_()
        loss = loss_at(name, truth, sigma, x, x0)
        (gradient,) = torch.autograd.grad(loss, truth)
        scale = float(truth.detach().exp().max())  # ratios reach 1/sigma
        assert abs(float(loss.detach())) < 1e-10 * scale
        assert float(gradient.abs().max()) < 1e-10 * scale
        for seed in range(5):
            assert float(loss_at(name, truth.detach() + random_log_score(name, x, seed, 0.1), sigma, x, x0)) >= 0


@every_graph
@pytest.mark.parametrize("sigma", [1e-3, 0.5, 8.0])
def test_leaving_the_true_ratio_costs(name, sigma):
    """Strictly minimal: every single ratio that matters, moved either way, raises the loss by its second order."""
    Q = rate_matrix(name, N)
    P = reference.transition(Q, sigma)
    for x0, x in reachable(name):
        truth = true_log_ratio(name, sigma, x, x0).clamp(min=-60)
        for y, step in itertools.product(range(len(Q)), (-0.01, 0.01)):
            r = float(P[y, x0] / P[x, x0])
            if y == x or Q[x, y] == 0 or r == 0:
                continue
            moved = truth.clone()
            moved[y] += step
            expected = float(Q[x, y]) * r * (math.exp(step) - 1 - step)
            # the loss itself is a difference of terms of size r·log r
            assert float(loss_at(name, moved, sigma, x, x0)) == pytest.approx(expected, rel=1e-6, abs=1e-13 * r)


@every_graph
def test_weighted_gradient_is_s_minus_r(name):
    """d loss / d log s_y = Q(x, y)·(s_y - r_y) off the current token, and 0 at it."""
    Q = rate_matrix(name, N)
    for seed, (x0, x) in enumerate(reachable(name)):
        for sigma in (1e-3, 0.7, 9.0):
            log_score = random_log_score(name, x, seed).requires_grad_()
            cut = log_score.scatter(-1, torch.tensor([x]), 0.0)  # as log_score of the graph does
            (gradient,) = torch.autograd.grad(loss_at(name, cut, sigma, x, x0), log_score)
            expected = Q[x] * (log_score.detach().exp() - true_log_ratio(name, sigma, x, x0).exp())
            expected[x] = 0.0
            torch.testing.assert_close(gradient, expected, rtol=1e-9, atol=1e-12)


class TestAbsorbing:
    """SPEC: score entropy is masked cross-entropy plus e^m - 1 - m, and sigma cancels."""

    graph = GRAPHS["absorbing"](vocab_size=N)

    def rows(self, R: int = 6):
        z = 2 * torch.randn(R, N + 1, generator=torch.Generator().manual_seed(1), **F64)
        return z.requires_grad_(), torch.arange(R) % N, torch.full((R,), N)

    @pytest.mark.parametrize("sigma", SIGMAS)
    def test_loss_is_cross_entropy_plus_penalty_whatever_sigma(self, sigma):
        z, x0, x = self.rows()
        level = torch.full((len(z),), sigma, **F64)
        loss = score_entropy(self.graph, self.graph.log_score(z, level, x), level, x, x0) * math.expm1(sigma)
        m = z[:, :N].logsumexp(-1) - math.log(N)
        ce = torch.nn.functional.cross_entropy(z[:, :N], x0, reduction="none")
        torch.testing.assert_close(loss, ce + m.exp() - 1 - m, rtol=1e-12, atol=1e-13)

    def test_loglinear_weight_is_one_over_t(self):
        for t in (1e-3, 0.2, 1.0):
            sigma, dsigma = reference.loglinear(t)
            assert dsigma / math.expm1(sigma) == pytest.approx(1 / t, rel=1e-12)

    @pytest.mark.parametrize("sigma", SIGMAS)
    def test_gradient_is_elementwise_without_softmax(self, sigma):
        z, x0, x = self.rows()
        level = torch.full((len(z),), sigma, **F64)
        loss = score_entropy(self.graph, self.graph.log_score(z, level, x), level, x, x0)
        (G,) = torch.autograd.grad(loss.sum(), z)
        expected = (z[:, :N].detach() - math.log(N)).exp() - torch.nn.functional.one_hot(x0, N)
        torch.testing.assert_close(G[:, :N] * math.expm1(sigma), expected, rtol=1e-10, atol=1e-12)
        assert G[:, N].tolist() == [0.0] * len(z)  # the MASK column never receives a gradient

    def test_unmasked_positions_cost_nothing_and_send_no_gradient(self):
        z, x0, _ = self.rows()
        level = torch.full((len(z),), 0.3, **F64)
        loss = score_entropy(self.graph, self.graph.log_score(z, level, x0), level, x0, x0)
        (G,) = torch.autograd.grad(loss.sum(), z)
        assert loss.tolist() == [0.0] * len(z)
        assert G.abs().sum() == 0


class TestUniform:
    """SPEC: (1/N)·sum R_y phi(log s_y - log R_y), a sum of non-negative terms."""

    @pytest.mark.parametrize("sigma", SIGMAS)
    def test_loss_is_the_phi_form(self, sigma):
        log_rho = -math.log1p(N / math.expm1(sigma))
        for seed, (x0, x) in enumerate(reachable("uniform")):
            log_score = random_log_score("uniform", x, seed)
            total = 0.0
            for y in range(N):
                if y == x:
                    continue
                log_R = log_rho if x == x0 else (-log_rho if y == x0 else 0.0)
                v = float(log_score[y]) - log_R
                total += math.exp(log_R) * (math.expm1(v) - v) / N
            assert float(loss_at("uniform", log_score, sigma, x, x0)) == pytest.approx(total, rel=1e-11)

    @pytest.mark.parametrize("sigma", SIGMAS)
    def test_ratios_are_those_of_the_matrix_exponential(self, sigma):
        log_rho = -math.log1p(N / math.expm1(sigma))
        for x0, x in reachable("uniform"):
            expected = [log_rho if x == x0 else (-log_rho if y == x0 else 0.0) for y in range(N)]
            expected[x] = 0.0
            truth = true_log_ratio("uniform", sigma, x, x0)
            # entries of the dense exponential carry 1e-16 absolute, ratios go down to sigma/N
            torch.testing.assert_close(truth, torch.tensor(expected, **F64), rtol=0, atol=1e-15 / sigma + 1e-13)


class TestFloat32AtTheRealVocabulary:
    """Every sigma in [1e-5, 20] at N = 50257, at scores a network plausibly gives."""

    N = 50257
    sigma = torch.logspace(-5, math.log10(20), 19, **F64)

    def rows(self, name: str, moved: bool, kind: str):
        """(z float32, sigma, x, x0): z is the untrained network's 0, the true ratio with noise, or rough noise."""
        graph, R = GRAPHS[name](vocab_size=self.N), len(self.sigma)
        x0 = torch.arange(R) * 2500 % self.N
        x = torch.full((R,), graph.states - 1) if moved else x0
        noise = torch.randn(R, graph.states, generator=torch.Generator().manual_seed(5))
        if kind == "untrained":
            z = torch.zeros_like(noise)
        elif kind == "rough":
            z = 3 * noise
        else:
            log_r = -torch.log1p(self.N / torch.expm1(self.sigma)).float()
            z = 0.3 * noise
            if name == "absorbing":  # log N·p(x0 | rest) with p = 0.9
                z = z - 2.0
                z[torch.arange(R), x0] = math.log(0.9 * self.N)
            elif moved:
                z[torch.arange(R), x0] -= log_r
            else:
                z = z + log_r[:, None]
        return graph, z, self.sigma, x, x0

    def loss(self, graph, z, sigma, x, x0):
        return score_entropy(graph, graph.log_score(z, sigma, x), sigma, x, x0)

    @pytest.mark.parametrize("name", ["absorbing", "uniform"])
    @pytest.mark.parametrize("moved", [True, False], ids=["moved", "unmoved"])
    @pytest.mark.parametrize("kind", ["untrained", "trained", "rough"])
    def test_loss_and_gradient_are_finite_and_close_to_float64(self, name, moved, kind):
        graph, z, sigma, x, x0 = self.rows(name, moved, kind)
        z.requires_grad_()
        loss = self.loss(graph, z, sigma.float(), x, x0)
        (G,) = torch.autograd.grad(loss.sum(), z)
        assert loss.dtype == torch.float32
        assert loss.isfinite().all()
        assert G.isfinite().all()
        assert (loss >= 0).all()
        exact = self.loss(graph, z.detach().double(), sigma, x, x0)
        # log s and log R reach 22 and carry 22·2^-24 = 1.3e-6 each; phi(v) near v = 0.1 turns 1e-6 in v into 5e-5 of
        # itself. Where v is 1e-4 (sigma = 20) phi is 5e-9 and drowns in 1e-4·2^-24: absolute, and nothing beside a nat
        torch.testing.assert_close(loss.detach().double(), exact, rtol=2e-4, atol=1e-10)

    @pytest.mark.parametrize("name", ["absorbing", "uniform"])
    @pytest.mark.parametrize("moved", [True, False], ids=["moved", "unmoved"])
    def test_float64_is_the_textbook_sum_at_this_size_too(self, name, moved):
        graph, z, sigma, x, x0 = self.rows(name, moved, "trained")
        z = z.double()
        log_score = graph.log_score(z, sigma, x)
        mine = score_entropy(graph, log_score, sigma, x, x0)
        for row in range(0, len(sigma), 3):
            truth = self.textbook(graph, log_score[row], sigma[row], x[row], x0[row])
            # the textbook cancels terms of size r·log r: 1e-16 of them, summed 50257 times, stays under 1e-9 of it
            assert float(mine[row]) == pytest.approx(truth, rel=1e-8)

    def test_the_textbook_form_in_float32_fails_where_ours_holds(self):
        """Why the phi form is there. Negative control: where scores are nearly right the textbook drowns the loss."""
        graph, z, sigma, x, x0 = (
            v[-1:] if isinstance(v, torch.Tensor) else v for v in self.rows("uniform", False, "untrained")
        )
        exact = float(self.loss(graph, z.double(), sigma, x, x0))
        ours = float(self.loss(graph, z, sigma.float(), x, x0))
        textbook = self.textbook(graph, graph.log_score(z, sigma, x)[0], sigma[0], x[0], x0[0])
        assert abs(ours - exact) < 0.01 * exact
        assert abs(textbook - exact) > 0.99 * exact

    def textbook(self, graph, log_score, sigma, x, x0) -> float:
        return reference.textbook_score_entropy(graph.name, self.N, log_score, float(sigma), int(x), int(x0))


@pytest.mark.parametrize("z", [-1e4, -80.0, 60.0, 80.0, 95.0, 99.0])
@pytest.mark.parametrize("kept", [True, False])
@pytest.mark.parametrize("many", [False, True])
def test_the_uniform_loss_of_large_outputs_is_finite_where_its_value_fits(z, kept, many):
    """float32 at sigma = 1e-5 and N = 50,257, where 1/rho is 5e9: in the plain, the closed and the fused form.

    One output is z, or a thousand are, whose sum overflows before the loss, 1/N of it, does.
    """
    N, sigma, large = 50_257, 1e-5, 1000 if many else 1
    z = z if z < 85 or not many else z - 8
    graph = GRAPHS["uniform"](vocab_size=N)
    x, x0, level = torch.tensor([3]), torch.tensor([3 if kept else 5]), torch.tensor([sigma], dtype=torch.float64)
    outputs = torch.zeros(1, N)
    outputs[0, 7 : 7 + large] = z
    truth = float(score_entropy(graph, graph.log_score(outputs.double(), level, x), level, x, x0))
    log_rho = float(graph.log_rho(level)[0])
    # written out: the large terms, and the others with log s = 0
    r = math.exp(log_rho) if kept else 1.0
    written = large * (math.exp(z) - r - r * (z - math.log(r))) / N
    written += (N - 1 - large - (not kept)) / N * (1 - r + r * math.log(r))
    written += 0 if kept else (1 - math.exp(-log_rho) * (1 + log_rho)) / N
    assert truth == pytest.approx(written, rel=1e-9)
    kernels, targets = kernels_of(graph), Targets(x, x0, level)
    part, tile = kernels.loss_tile(outputs.clone(), 0, targets, outputs.dtype)
    found = [
        score_entropy(graph, graph.log_score(outputs, level, x), level, x, x0),
        kernels.score_entropy_of(outputs, level, x, x0),
        part * kernels.row_weight(targets),
    ]
    for loss in found:
        assert loss.dtype == torch.float32 or bool((loss < torch.finfo(torch.float32).max).all())
        assert float(loss) == pytest.approx(truth, rel=1e-4)
    assert bool(tile.isfinite().all())
    gradient = tile * kernels.row_weight(targets)[:, None]
    assert float(gradient[0, 7]) == pytest.approx((math.exp(z) - r) / N, rel=1e-4)


@pytest.mark.parametrize("at_x0", [True, False])
def test_the_uniform_loss_is_infinite_where_its_value_exceeds_float32_and_never_nan(at_x0):
    graph = GRAPHS["uniform"](vocab_size=100)
    kernels, x, x0, level = kernels_of(graph), torch.tensor([3]), torch.tensor([5]), torch.tensor([0.5], **F64)
    outputs = torch.zeros(1, 100)
    outputs[0, 5 if at_x0 else 7] = 95.0
    part, _ = kernels.loss_tile(outputs.clone(), 0, Targets(x, x0, level), outputs.dtype)
    plain = score_entropy(graph, graph.log_score(outputs, level, x), level, x, x0)
    for loss in (part, plain, kernels.score_entropy_of(outputs, level, x, x0)):
        assert float(loss) == math.inf
    exact = score_entropy(graph, graph.log_score(outputs.double(), level, x), level, x, x0)
    assert torch.finfo(torch.float32).max < float(exact) < math.inf


@pytest.mark.parametrize("at_x0", [True, False])
def test_the_uniform_loss_holds_a_large_output_at_the_clean_token_too(at_x0):
    """Loss, fused gradient and autograd's, against float64, at outputs beyond what e^z in float32 holds."""
    graph = GRAPHS["uniform"](vocab_size=50_257)
    kernels, x, x0, level = kernels_of(graph), torch.tensor([3]), torch.tensor([5]), torch.tensor([1e-5], **F64)
    outputs = torch.zeros(1, 50_257)
    at = 5 if at_x0 else 7
    outputs[0, at] = 97.0
    exact = outputs.double().requires_grad_()
    truth = score_entropy(graph, graph.log_score(exact, level, x), level, x, x0)
    (slope,) = torch.autograd.grad(truth.sum(), exact)
    part, tile = kernels.loss_tile(outputs.clone(), 0, Targets(x, x0, level), outputs.dtype)
    assert float(part) == pytest.approx(float(truth.detach()), rel=1e-4)
    assert float(tile[0, at]) == pytest.approx(float(slope[0, at]), rel=1e-4)
    plain = outputs.clone().requires_grad_()
    (found,) = torch.autograd.grad(score_entropy(graph, graph.log_score(plain, level, x), level, x, x0).sum(), plain)
    assert bool(found.isfinite().all())
    assert float(found[0, at]) == pytest.approx(float(slope[0, at]), rel=1e-4)


def test_the_squared_error_of_a_large_score_is_finite_where_its_value_fits():
    graph, z = GRAPHS["uniform"](vocab_size=50_257), 48.0
    x, x0, level = torch.tensor([3]), torch.tensor([5]), torch.tensor([1.0], **F64)
    outputs = torch.zeros(1, 50_257)
    outputs[0, 7] = z
    tiles = ConcreteScoreTiles(kernels_of(graph), Targets(x, x0, level))
    fused = tiles.tile(outputs.clone(), 0, None, outputs.dtype)[0] * tiles.row_weight()
    for loss in (fused, concrete_score_error(graph, graph.log_score(outputs, level, x), level, x, x0)):
        assert float(loss) == pytest.approx(math.exp(2 * z) / 50_257 / 2, rel=1e-4)


@pytest.mark.parametrize("sigma", [1e-3, 0.05, 1.0])
def test_ratios_that_float32_cannot_hold_leave_loss_and_gradient_finite_and_right(sigma):
    """On a circle of 50 tokens log r goes down to −480: r is 0 in float32, and e^{log s − log r} is infinite."""
    graph, x0, x = Cyclic(vocab_size=50), 7, 9
    log_p = [-sigma + m * math.log(sigma) - math.lgamma(m + 1) for m in ((y - x0) % 50 for y in range(50))]
    for at in (x, x0):  # the one rate into x is from x − 1; x0 − 1 is 49 moves from x0
        log_r = log_p[at - 1] - log_p[at]
        for log_s in (-3.0, 0.5, 40.0, -600.0):
            r, v = math.exp(log_r), log_s - log_r
            truth = math.exp(log_s) - r * (1 + v)
            log_score = torch.full((1, 50), log_s, dtype=torch.float32, requires_grad=True)
            level = torch.tensor([sigma], **F64)
            loss = score_entropy(graph, log_score, level, torch.tensor([at]), torch.tensor([x0]))
            loss.sum().backward()
            assert loss.item() == pytest.approx(truth, rel=2e-4, abs=1e-30)
            assert bool(log_score.grad.isfinite().all())
            found = float(log_score.grad[0, at - 1])
            assert found == pytest.approx(math.exp(log_s) - r, rel=2e-4, abs=1e-30)
