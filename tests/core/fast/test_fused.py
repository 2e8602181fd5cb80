"""The fused head and loss against the plain ones, in value and in every gradient."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch

from sedd_cli.core.fast import KERNELS, kernels_of
from sedd_cli.core.fast.base import Targets
from sedd_cli.core.fast.fused import Tiles, losses, weighted_loss
from sedd_cli.core.graphs import GRAPHS


@dataclasses.dataclass
class Head:
    """A linear head in one precision."""

    weight: torch.Tensor
    bias: torch.Tensor
    rows_in: int = 4

    def product(self, a, b, out=None):
        return torch.mm(a, b, out=out)


def graphs(N):
    yield from (cls(vocab_size=N) for cls in map(GRAPHS.get, sorted(KERNELS)))
    yield GRAPHS["absorbing"](vocab_size=N, scale_by_sigma=False)


NAMES = ["absorbing", "uniform", "absorbing, unscaled"]


def problem(graph, R=13, D=5, seed=0, sigma=None):
    """(head, hidden, targets, weight) with tokens kept and moved; leaves require gradients."""
    g = torch.Generator().manual_seed(seed)
    S = graph.states
    head = Head(*(torch.randn(shape, dtype=torch.float64, generator=g).requires_grad_() for shape in ((S, D), (S,))))
    hidden = torch.randn(R, D, dtype=torch.float64, generator=g).requires_grad_()
    x0 = torch.randint(graph.vocab_size, (R,), generator=g)
    sigma = torch.rand(R, dtype=torch.float64, generator=g) * 3 + 1e-3 if sigma is None else torch.full((R,), sigma)
    x = graph.perturb(x0, sigma, torch.rand(R, dtype=torch.float64, generator=g))
    rows = graph.active(x).nonzero()[:, 0]
    hidden = hidden[rows].detach().requires_grad_()
    weight = torch.rand(len(rows), dtype=torch.float64, generator=g)
    return head, hidden, Targets(x[rows], x0[rows], sigma[rows].double()), weight


def plain(head, graph, hidden, targets):
    z = hidden @ head.weight.T + head.bias
    return kernels_of(graph).score_entropy_of(z, targets.sigma, targets.x, targets.x0)


@pytest.mark.parametrize(("N", "budget"), [(7, None), (1100, 1100 * 8), (1100, 600 * 8 * 4), (2, None)])
@pytest.mark.parametrize("kind", range(3), ids=NAMES)
def test_value_and_every_gradient_are_the_plain_ones(kind, N, budget):
    graph = list(graphs(N))[kind]
    head, hidden, targets, weight = problem(graph)
    expected = plain(head, graph, hidden, targets)
    wanted = torch.autograd.grad((weight * expected).sum() * 3, [hidden, head.weight, head.bias])
    total, loss = weighted_loss(head, kernels_of(graph), hidden, targets, weight, budget)
    found = torch.autograd.grad(total * 3, [hidden, head.weight, head.bias])
    # float64 sums in another order
    torch.testing.assert_close(loss, expected.detach(), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(total, (weight * expected).sum(), rtol=1e-10, atol=1e-10)
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(losses(head, kernels_of(graph), hidden, targets, budget), loss, rtol=1e-12, atol=1e-12)


def test_the_budgets_of_the_test_cut_rows_and_columns():
    like = torch.zeros(13, 5, dtype=torch.float64)
    one = Tiles.plan(13, 1100, like, None)
    assert (one.height, one.width) == (13, 1100)
    narrow = Tiles.plan(13, 1100, like, 1100 * 8)
    assert narrow.height < 13
    assert narrow.width < 1100
    assert narrow.height * narrow.width * 8 <= 1100 * 8


@pytest.mark.parametrize("sigma", [1e-5, 1e-3, 1.0, 20.0])
@pytest.mark.parametrize("kind", range(3), ids=NAMES)
def test_float32_is_finite_and_close_at_every_noise_level(kind, sigma):
    graph, g, R, N = list(graphs(50_257))[kind], torch.Generator().manual_seed(3), 24, 50_257
    weight = 0.3 * torch.randn(graph.states, 8, dtype=torch.float64, generator=g)
    bias = torch.zeros(graph.states, dtype=torch.float64)
    hidden, x0 = torch.randn(R, 8, dtype=torch.float64, generator=g), torch.randint(N, (R,), generator=g)
    x = torch.where(torch.arange(R) < R // 2, x0, (x0 + 1 + torch.arange(R)) % N)  # half kept, half moved
    targets = Targets(
        x if graph.mask is None else torch.full((R,), graph.mask), x0, torch.full((R,), sigma, dtype=torch.float64)
    )
    found = {}
    for dtype in (torch.float64, torch.float32):
        leaves = [value.to(dtype).requires_grad_() for value in (hidden, weight, bias)]
        head = Head(*leaves[1:])
        # the factors of rows of a batch span ten orders of magnitude: each row is looked at beside its own
        each = plain(head, graph, leaves[0], targets) if dtype == torch.float64 else None
        total, loss = weighted_loss(
            head, kernels_of(graph), leaves[0], targets, 1 / kernels_of(graph).loss_factor(targets)
        )
        found[dtype] = loss if each is None else each.detach(), *torch.autograd.grad(total, leaves)
    for mine, exact in zip(found[torch.float32], found[torch.float64], strict=True):
        assert mine.dtype == torch.float32
        assert mine.isfinite().all()
        # float32 rounding of z, magnified by the exponential, and of sums of 50,257 terms
        assert (mine.double() - exact).norm() < 1e-4 * exact.norm()
    torch.testing.assert_close(found[torch.float32][0].double(), found[torch.float64][0], rtol=1e-4, atol=0)


@pytest.mark.parametrize("kind", range(3), ids=NAMES)
@pytest.mark.parametrize("weights", [torch.float32, torch.bfloat16])
def test_bf16_inputs_give_float32_losses_and_bf16_gradients(kind, weights):
    graph = list(graphs(40))[kind]
    head, hidden, targets, weight = problem(graph, R=60)
    leaves = [value.detach().to(dtype) for value, dtype in ((hidden, torch.bfloat16), (head.weight, weights))]
    found = {}
    for exact in (False, True):
        mine = [value.to(torch.float64 if exact else value.dtype).requires_grad_() for value in leaves]
        bias = torch.zeros(graph.states, dtype=mine[1].dtype)
        total, loss = weighted_loss(Head(mine[1], bias), kernels_of(graph), mine[0], targets, weight)
        found[exact] = loss, *torch.autograd.grad(total, mine)
        assert torch.equal(losses(Head(mine[1], bias), kernels_of(graph), mine[0], targets), loss)
    assert [value.dtype for value in found[False]] == [torch.float32, torch.bfloat16, weights]
    # the factors are the same bf16 numbers on both sides: sums are float32, gradients are rounded in the end
    torch.testing.assert_close(found[False][0].double(), found[True][0], rtol=1e-4, atol=1e-4)
    for mine, truth in zip(found[False][1:], found[True][1:], strict=True):
        assert (mine.double() - truth).norm() < 2**-8 * truth.norm()


@pytest.mark.parametrize("kind", range(3), ids=NAMES)
def test_no_active_row_gives_zero_and_gradients_of_zero(kind):
    graph = list(graphs(7))[kind]
    head, hidden, targets, weight = problem(graph)
    none = hidden[:0].detach().requires_grad_()
    total, loss = weighted_loss(head, kernels_of(graph), none, targets[slice(0, 0)], weight[:0])
    total.backward()
    assert float(total.detach()) == 0
    assert loss.shape == (0,)
    assert none.grad.shape == (0, 5)
    assert head.weight.grad.abs().sum() == 0
    assert head.bias.grad.abs().sum() == 0


def test_mask_never_gets_a_gradient():
    graph = GRAPHS["absorbing"](vocab_size=7)
    head, hidden, targets, weight = problem(graph)
    weighted_loss(head, kernels_of(graph), hidden, targets, weight)[0].backward()
    assert head.weight.grad[7].abs().sum() == 0
    assert head.weight.grad[:7].abs().min() > 0


def test_a_budget_below_one_row_is_refused():
    graph = GRAPHS["absorbing"](vocab_size=7)
    head, hidden, targets, weight = problem(graph)
    with pytest.raises(ValueError, match="does not hold one row of 7 scores, 56 bytes"):
        weighted_loss(head, kernels_of(graph), hidden, targets, weight, budget=55)


def test_the_closed_form_of_the_absorbing_loss_needs_no_logarithm_of_a_sum():
    """CE + e^m − 1 − m, written out, for one row."""
    graph = GRAPHS["absorbing"](vocab_size=3)
    z = torch.tensor([[0.2, -1.0, 0.7]], dtype=torch.float64)
    sigma = torch.tensor([0.4], dtype=torch.float64)
    targets = Targets(torch.tensor([3]), torch.tensor([1]), sigma)
    m = float(z.logsumexp(-1)) - math.log(3)
    ce = float(z.logsumexp(-1)) + 1.0
    share = kernels_of(graph).loss_tile(z.clone(), 0, targets) * kernels_of(graph).loss_factor(targets)
    assert float(share) == pytest.approx((ce + math.exp(m) - 1 - m) / math.expm1(0.4), rel=1e-12)
