"""The fused head and loss against the plain ones, in value and in every gradient."""

from __future__ import annotations

import dataclasses
import math
import shutil

import pytest
import torch
from support.toys import ALL

from sedd_cli.core.fast import KERNELS, kernels_of, tiles
from sedd_cli.core.fast.base import ConcreteScoreTiles, CrossEntropyTiles, ScoreEntropyTiles, Targets
from sedd_cli.core.fast.exponents import ExponentTiles
from sedd_cli.core.fast.fused import losses, weighted_loss
from sedd_cli.core.fast.tiles import Tiles
from sedd_cli.core.graphs import GRAPHS
from sedd_cli.core.losses.concrete_score import concrete_score_error


@dataclasses.dataclass
class Head:
    """A linear head in one precision."""

    weight: torch.Tensor
    bias: torch.Tensor
    rows_in: int = 4
    columns_in: int = 1
    compiled: bool = False

    def rounded(self, a):
        return a.to(torch.promote_types(a.dtype, torch.float32))

    def gradient_dtype(self, dtype):
        return dtype

    def product(self, a, b, out=None):
        return torch.mm(a, b, out=out)


@dataclasses.dataclass
class RoundingHead(Head):
    """A head whose products round their factors to bf16, as on a GPU."""

    def rounded(self, a):
        return a.bfloat16()

    def gradient_dtype(self, dtype):
        return torch.bfloat16

    def product(self, a, b, out=None):
        assert a.dtype == b.dtype == torch.bfloat16
        return torch.mm(a.float(), b.float(), out=out)


def graphs(N):
    yield from (cls(vocab_size=N) for cls in map(GRAPHS.get, sorted(KERNELS)))
    yield GRAPHS["absorbing"](vocab_size=N, scale_by_sigma=False)


NAMES = ["absorbing", "uniform", "absorbing, unscaled"]
CONCRETE = [f"concrete score, {name}" for name in NAMES]
#: Cross-entropy is that of the tokens of an absorbing graph; of D3PM, the loss that no cross-entropy gives.
LOSSES = [*NAMES, "cross-entropy", *CONCRETE, "posterior", "posterior and cross-entropy", "exponents"]
GRAPH_OF = [0, 1, 2, 0, 0, 1, 2, 1, 1, 0]
KINDS = range(len(LOSSES))
#: A compilation takes five seconds, or three times as many: one kind in strips with a softmax, one in whole rows with
#: parameters of its own.
COMPILED = KINDS if ALL else [LOSSES.index(name) for name in ("cross-entropy", "exponents")]
SHARE = {"posterior": 0.0, "posterior and cross-entropy": 0.3}


def graph_of(kind, N):
    return list(graphs(N))[GRAPH_OF[kind]]


def tiles_of(kind, graph, targets):
    name, kernels = LOSSES[kind], kernels_of(graph)
    if name == "cross-entropy":
        return CrossEntropyTiles(targets.x0, graph.vocab_size)
    if name in CONCRETE:
        return ConcreteScoreTiles(kernels, targets)
    if name in SHARE:
        return kernels.posterior_kl_tiles(before(targets), targets.sigma, targets.x, targets.x0, SHARE[name])
    if name == "exponents":
        return ExponentTiles(targets.x0, exponents(graph.vocab_size))
    return ScoreEntropyTiles(kernels, targets)


def exponents(N):
    """Exponents of tokens, to be trained."""
    return torch.linspace(0.1, 3, N, dtype=torch.float64).requires_grad_()


def before(targets):
    """sigma one step earlier; some steps are the first, before which there is no noise."""
    return torch.where(torch.arange(len(targets.sigma)) % 4 == 3, 0.0, 0.97 * targets.sigma)


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


def plain(kind, head, graph, hidden, targets):
    z = hidden @ head.weight.T + head.bias
    cross_entropy = torch.nn.functional.cross_entropy(z[:, : graph.vocab_size], targets.x0, reduction="none")
    if (name := LOSSES[kind]) == "cross-entropy":
        return cross_entropy
    if name == "exponents":
        return exponents_loss(z[:, : graph.vocab_size], targets.x0, exponents(graph.vocab_size))
    if name in CONCRETE:
        log_score = graph.log_score(z, targets.sigma, targets.x)
        return concrete_score_error(graph, log_score, targets.sigma, targets.x, targets.x0)
    if name in SHARE:
        kl = graph.posterior_kl(z, before(targets), targets.sigma, targets.x, targets.x0)
        return kl + SHARE[name] * cross_entropy
    return kernels_of(graph).score_entropy_of(z, targets.sigma, targets.x, targets.x0)


def exponents_loss(z, x0, w):
    """w_{x0}·(−log μ_{x0} − 1) + Σ_y w_y·μ_y, as Shi et al. 2024 write it."""
    mu = z.softmax(-1)
    return w[x0] * (-mu.gather(-1, x0[:, None])[:, 0].log() - 1) + mu @ w


SHAPES = [(7, None), (1100, 1152 * 8), (1100, 600 * 8 * 4), (2, None)]


@pytest.mark.parametrize("columns_in", [1, 128])
@pytest.mark.parametrize(("N", "budget"), SHAPES)
@pytest.mark.parametrize("kind", KINDS, ids=LOSSES)
def test_value_and_every_gradient_are_the_plain_ones(kind, N, budget, columns_in):
    graph = graph_of(kind, N)
    head, hidden, targets, weight = problem(graph)
    head.columns_in = columns_in
    loss_of = tiles_of(kind, graph, targets)
    expected = plain(kind, head, graph, hidden, targets)
    wanted = torch.autograd.grad((weight * expected).sum() * 3, [hidden, head.weight, head.bias])
    total, loss = weighted_loss(head, loss_of, hidden, weight, budget)
    found = torch.autograd.grad(total * 3, [hidden, head.weight, head.bias])
    # float64 sums in another order
    torch.testing.assert_close(loss, expected.detach(), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(total, (weight * expected).sum(), rtol=1e-10, atol=1e-10)
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(losses(head, loss_of, hidden, budget), loss, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("columns_in", [1, 128])
@pytest.mark.parametrize(("N", "budget"), SHAPES)
def test_the_gradient_of_the_exponents_is_the_plain_one(N, budget, columns_in):
    head, hidden, targets, weight = problem(graph_of(0, N))
    head.columns_in = columns_in
    w = exponents(N)
    z = (hidden @ head.weight.T + head.bias)[:, :N]
    wanted = torch.autograd.grad((weight * exponents_loss(z, targets.x0, w)).sum() * 3, [w, head.weight])
    total, _ = weighted_loss(head, ExponentTiles(targets.x0, w), hidden, weight, budget)
    found = torch.autograd.grad(total * 3, [w, head.weight])
    for mine, truth in zip(found, wanted, strict=True):
        torch.testing.assert_close(mine, truth, rtol=1e-10, atol=1e-10)
    # exponents that are not trained give the same, and nothing is made for them
    fixed = ExponentTiles(targets.x0, w.detach())
    assert len(fixed.tile(z.detach().clone(), 0, None, z.dtype)) == 2
    assert weighted_loss(head, fixed, hidden, weight, budget)[0].item() == pytest.approx(total.item(), rel=1e-12)


def test_with_equal_exponents_nothing_is_added_to_the_cross_entropy():
    """−1 and Σ μ cancel without rounding, also beside a small loss in float32."""
    z, x0 = torch.tensor([[9.0, 0.5, -1.0], [0.0, 10.0, 1.0]]), torch.tensor([0, 1])
    found = ExponentTiles(x0, torch.full((3,), 2.0, dtype=torch.float64)).tile(z.clone(), 0, None, z.dtype)[0]
    assert torch.equal(found, 2 * (z.logsumexp(-1) - z.gather(1, x0[:, None])[:, 0]))


def test_the_budgets_of_the_test_cut_rows_and_columns():
    graph, hidden = graph_of(0, 1100), torch.zeros(13, 5, dtype=torch.float64)
    head = Head(torch.zeros(1101, 5), torch.zeros(1101))
    targets = Targets(*torch.zeros(2, 13, dtype=torch.int64), torch.ones(13, dtype=torch.float64))
    score, cross = (tiles_of(kind, graph, targets) for kind in (0, 3))
    one = Tiles.plan(head, score, hidden, None)
    assert (one.height, one.width) == (13, 1100)
    narrow = Tiles.plan(head, score, hidden, 1152 * 8)
    assert narrow.height < 13
    assert narrow.width < 1100
    assert narrow.height * narrow.width * 8 <= 1152 * 8
    # a softmax wants whole rows, and does without where few would fit into a tile
    whole = Tiles.plan(head, cross, hidden.new_zeros(1000, 5), 256 * 1100 * 8)
    assert (whole.height, whole.width) == (256, 1100)
    assert Tiles.plan(head, cross, hidden.new_zeros(1000, 5), 255 * 1100 * 8).width < 1100
    head.columns_in = 128
    assert Tiles.plan(head, score, hidden, None).columns == 1152


@pytest.mark.skipif(shutil.which("g++") is None, reason="compiling needs a C++ compiler")
@pytest.mark.slow
@pytest.mark.parametrize("kind", COMPILED, ids=lambda kind: str(LOSSES[kind]))
def test_compiled_tiles_are_the_plain_ones(kind):
    """Float32 through the compiler; as on a GPU, columns are filled up, and gradients and factors rounded to bf16."""
    graph = graph_of(kind, 1100)
    head, hidden, targets, weight = problem(graph, R=60)
    found = {}
    for rounding in (False, True):
        for compiled in (False, True):
            leaves = [value.detach().float().requires_grad_() for value in (hidden, head.weight, head.bias)]
            one = (RoundingHead if rounding else Head)(*leaves[1:], columns_in=128, compiled=compiled)
            loss_of = tiles_of(kind, graph, targets)
            total, loss = weighted_loss(one, loss_of, leaves[0], weight, 600 * 4 * 16)
            trained = [*leaves, *([] if loss_of.parameters is None else [loss_of.parameters])]
            found[rounding, compiled] = loss, *torch.autograd.grad(total, trained)
    for rounding, tolerance in ((False, 1e-6), (True, 2**-12)):  # a gradient may fall to the other side in rounding
        for mine, eager in zip(found[rounding, True], found[rounding, False], strict=True):
            assert (mine - eager).norm() <= tolerance * eager.norm()
    for rounded, exact in zip(found[True, True], found[False, False], strict=True):
        # bf16 factors: z is off by 2⁻⁹·|z|, its exponential by as much, and the square of that by twice as much
        assert 0 < (rounded - exact).norm() < 0.04 * exact.norm()


@pytest.mark.parametrize("sigma", [1e-5, 1e-3, 1.0, 20.0])
@pytest.mark.parametrize("kind", KINDS, ids=LOSSES)
def test_float32_is_finite_and_close_at_every_noise_level(kind, sigma):
    graph, g, R, N = graph_of(kind, 50_257), torch.Generator().manual_seed(3), 24, 50_257
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
        each = plain(kind, head, graph, leaves[0], targets) if dtype == torch.float64 else None
        tiles = tiles_of(kind, graph, targets)
        total, loss = weighted_loss(head, tiles, leaves[0], 1 / tiles.row_weight())
        found[dtype] = loss if each is None else each.detach(), *torch.autograd.grad(total, leaves)
    for mine, exact in zip(found[torch.float32], found[torch.float64], strict=True):
        assert mine.dtype == torch.float32
        assert mine.isfinite().all()
        # float32 rounding of z, magnified by the exponential, and of sums of 50,257 terms
        assert (mine.double() - exact).norm() < 1e-4 * exact.norm()
    # at full noise nothing is left of the divergence but float64 rounding
    atol = 1e-14 if LOSSES[kind] in SHARE else 0
    torch.testing.assert_close(found[torch.float32][0].double(), found[torch.float64][0], rtol=1e-4, atol=atol)


@pytest.mark.parametrize("kind", KINDS, ids=LOSSES)
@pytest.mark.parametrize("weights", [torch.float32, torch.bfloat16])
def test_bf16_inputs_give_float32_losses_and_bf16_gradients(kind, weights):
    graph = graph_of(kind, 40)
    head, hidden, targets, weight = problem(graph, R=60)
    leaves = [value.detach().to(dtype) for value, dtype in ((hidden, torch.bfloat16), (head.weight, weights))]
    found = {}
    for exact in (False, True):
        mine = [value.to(torch.float64 if exact else value.dtype).requires_grad_() for value in leaves]
        bias = torch.zeros(graph.states, dtype=mine[1].dtype)
        loss_of = tiles_of(kind, graph, targets)
        total, loss = weighted_loss(Head(mine[1], bias), loss_of, mine[0], weight)
        found[exact] = loss, *torch.autograd.grad(total, mine)
        assert torch.equal(losses(Head(mine[1], bias), loss_of, mine[0]), loss)
    assert [value.dtype for value in found[False]] == [torch.float32, torch.bfloat16, weights]
    # the factors are the same bf16 numbers on both sides: sums are float32, gradients are rounded in the end
    torch.testing.assert_close(found[False][0].double(), found[True][0], rtol=1e-4, atol=1e-4)
    for mine, truth in zip(found[False][1:], found[True][1:], strict=True):
        assert (mine.double() - truth).norm() < 2**-8 * truth.norm()


@pytest.mark.parametrize("kind", KINDS, ids=LOSSES)
def test_no_active_row_gives_zero_and_gradients_of_zero(kind):
    graph = graph_of(kind, 7)
    head, hidden, targets, weight = problem(graph)
    none = hidden[:0].detach().requires_grad_()
    total, loss = weighted_loss(head, tiles_of(kind, graph, targets)[slice(0, 0)], none, weight[:0])
    total.backward()
    assert float(total.detach()) == 0
    assert loss.shape == (0,)
    assert none.grad.shape == (0, 5)
    assert head.weight.grad.abs().sum() == 0
    assert head.bias.grad.abs().sum() == 0


def test_whole_rows_stay_within_the_budget():
    graph = GRAPHS["uniform"](vocab_size=1100)
    head, hidden, targets, _ = problem(graph)
    plan = Tiles.plan(head, tiles_of(LOSSES.index("posterior"), graph, targets), hidden, 1100 * 8 * 5)
    assert (plan.height, plan.width) == (4, 1100)


@pytest.mark.parametrize(
    ("device", "columns", "rows"), [("cpu", 8192, 256), ("cpu", 50_000, 167), ("cuda", 8192, 8192)]
)
def test_whole_rows_take_small_tiles_where_these_hold_enough_of_them(device, columns, rows):
    """Of 8 MiB on a CPU, or of 32 MiB where these would hold few; never of the GiB of a tile of columns on a GPU."""

    class Somewhere:
        dtype = torch.float32

        def __init__(self):
            self.device = torch.device(device)

        def __len__(self):
            return 100_000

    loss = ExponentTiles(torch.zeros(1, dtype=torch.int64), torch.ones(columns))
    plan = Tiles.plan(Head(torch.zeros(1, 1), torch.zeros(1), rows_in=1), loss, Somewhere(), None)
    assert (plan.height, plan.width) == (rows, columns)


def test_a_loss_runs_uncompiled_where_the_compiler_fails(monkeypatch):
    def broken(*_):
        raise RuntimeError("no compiler")

    graph = graph_of(0, 7)
    head, hidden, targets, weight = problem(graph)
    head.compiled = True
    monkeypatch.setattr(tiles, "_compiled_tile", lambda kind: broken)
    monkeypatch.setattr(tiles, "FAILURES", {})
    assert len(hidden) > 4  # several tiles, one warning
    with pytest.warns(UserWarning, match="runs uncompiled .RuntimeError: no compiler.") as warned:
        _, loss = weighted_loss(head, tiles_of(0, graph, targets), hidden, weight, 7 * 8 * 4)
    assert len(warned) == 1
    torch.testing.assert_close(loss, plain(0, head, graph, hidden, targets).detach())


def test_every_kind_of_loss_has_compiled_programs_of_its_own(monkeypatch):
    """torch runs a function uncompiled beyond 8 programs of one code object."""
    made = []
    monkeypatch.setattr(torch, "compile", lambda function, **options: made.append((function, options)) or function)
    tiles._compiled_tile.cache_clear()
    kinds = [type(f"Loss{i}", (), {}) for i in range(3)]
    for kind in [*kinds, *kinds]:
        tiles._compiled_tile(kind)
    tiles._compiled_tile.cache_clear()
    assert len(made) == 3
    assert len({id(function.__code__) for function, _ in made}) == 3


def test_memory_that_runs_out_is_not_the_compilers_fault(monkeypatch):
    def full(*_):
        raise torch.OutOfMemoryError("full")

    graph = graph_of(0, 7)
    head, hidden, targets, weight = problem(graph)
    head.compiled = True
    monkeypatch.setattr(tiles, "_compiled_tile", lambda kind: full)
    with pytest.raises(torch.OutOfMemoryError):
        weighted_loss(head, tiles_of(0, graph, targets), hidden, weight)
    assert not tiles.FAILURES


def test_mask_never_gets_a_gradient():
    graph = GRAPHS["absorbing"](vocab_size=7)
    head, hidden, targets, weight = problem(graph)
    weighted_loss(head, ScoreEntropyTiles(kernels_of(graph), targets), hidden, weight)[0].backward()
    assert head.weight.grad[7].abs().sum() == 0
    assert head.weight.grad[:7].abs().min() > 0


def test_a_budget_below_one_row_is_refused():
    graph = GRAPHS["absorbing"](vocab_size=7)
    head, hidden, targets, weight = problem(graph)
    with pytest.raises(ValueError, match="does not hold one row of 7 scores, 56 bytes"):
        weighted_loss(head, ScoreEntropyTiles(kernels_of(graph), targets), hidden, weight, budget=55)


def test_the_closed_form_of_the_absorbing_loss_needs_no_logarithm_of_a_sum():
    """CE + e^m − 1 − m, written out, for one row."""
    graph = GRAPHS["absorbing"](vocab_size=3)
    z = torch.tensor([[0.2, -1.0, 0.7]], dtype=torch.float64)
    sigma = torch.tensor([0.4], dtype=torch.float64)
    targets = Targets(torch.tensor([3]), torch.tensor([1]), sigma)
    m = float(z.logsumexp(-1)) - math.log(3)
    ce = float(z.logsumexp(-1)) + 1.0
    tiles = ScoreEntropyTiles(kernels_of(graph), targets)
    share = tiles.tile(z.clone(), 0, None, z.dtype)[0] * tiles.row_weight()
    assert float(share) == pytest.approx((ce + math.exp(m) - 1 - m) / math.expm1(0.4), rel=1e-12)
