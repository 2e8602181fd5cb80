"""The head's products: float32 sums of bfloat16 factors, and their gradients."""

from __future__ import annotations

import pytest
import torch

from sedd_cli.core.fast import KERNELS, kernels_of
from sedd_cli.core.fast.base import ScoreEntropyTiles, Targets
from sedd_cli.core.fast.fused import _row_sum, losses, weighted_loss
from sedd_cli.core.graphs import GRAPHS
from sedd_cli.models.dit import DiT
from sedd_cli.models.head import Readout
from sedd_cli.models.precision import native_bf16
from sedd_cli.models.shape import DiTConfig

CPU = torch.device("cpu")


def rounded(tensor):
    return tensor.detach().bfloat16().double()


@pytest.fixture
def parts():
    g = torch.Generator().manual_seed(0)
    return torch.randn(40, 96, generator=g), torch.randn(700, 96, generator=g), torch.randn(700, generator=g)


@pytest.mark.skipif(not native_bf16(CPU), reason="this processor has no bf16 units: factors stay float32")
def test_mixed_outputs_are_float32_sums_of_factors_rounded_at_most(parts):
    hidden, weight, bias = parts
    z = Readout(weight, bias, mixed=True)(hidden)
    assert z.dtype == torch.float32
    exact = hidden.double() @ weight.double().T + bias.double()
    of_rounded = rounded(hidden) @ rounded(weight).T + bias.double()
    assert (exact - of_rounded).abs().max() > 1e-3
    # oneDNN rounds the factors where it has AMX, and computes in float32 where there is AVX512-BF16 alone. Either way
    # these are sums of 96 float32 products; rounding the result to bfloat16 would err by up to 0.1
    assert min((z.double() - found).abs().max() for found in (exact, of_rounded)) < 1e-4
    assert (z.double() - z.bfloat16().double()).abs().max() > 0.01


@pytest.mark.parametrize("mixed", [False, True])
def test_gradients_of_the_plain_head(parts, mixed):
    hidden, weight, bias = (p.clone().requires_grad_() for p in parts)
    upstream = torch.randn(40, 700, generator=torch.Generator().manual_seed(1))
    (Readout(weight, bias, mixed)(hidden) * upstream).sum().backward()
    wanted = upstream @ weight.detach(), upstream.T @ hidden.detach(), upstream.sum(0)
    for leaf, gradient in zip((hidden, weight, bias), wanted, strict=True):
        scale = float(gradient.abs().max())
        # bfloat16 factors: 2^-8 of an entry, averaged over a sum
        torch.testing.assert_close(leaf.grad, gradient, rtol=0, atol=scale * (2e-2 if mixed else 1e-5))


def test_the_setting_of_float32_products_is_put_back(parts):
    before = torch.backends.mkldnn.matmul.fp32_precision
    hidden, weight, bias = parts
    Readout(weight, bias, mixed=True)(hidden)
    assert torch.backends.mkldnn.matmul.fp32_precision == before
    with pytest.raises(RuntimeError):
        Readout(weight, bias, mixed=True)(hidden[:, :5])
    assert torch.backends.mkldnn.matmul.fp32_precision == before


@pytest.mark.parametrize("name", sorted(KERNELS))
def test_the_fused_loss_in_bf16_is_within_rounding_of_float64(name):
    """A network's own loss and gradients, mixed and fused, against float64 throughout."""
    g = torch.Generator().manual_seed(0)
    graph = GRAPHS[name](vocab_size=3000)
    hidden = torch.randn(50, 48, generator=g)
    weight, bias = 0.1 * torch.randn(graph.states, 48, generator=g), torch.zeros(graph.states)
    x0 = torch.randint(3000, (50,), generator=g)
    x = torch.full((50,), graph.mask) if graph.mask is not None else torch.randint(3000, (50,), generator=g)
    targets = Targets(x, x0, torch.full((50,), 0.7, dtype=torch.float64))
    tiles, found = ScoreEntropyTiles(kernels_of(graph), targets), {}
    for dtype in (torch.float32, torch.float64):
        leaves = [p.to(dtype, copy=True).requires_grad_() for p in (hidden, weight, bias)]
        readout = Readout(leaves[1], leaves[2], mixed=dtype == torch.float32)
        total, loss = weighted_loss(readout, tiles, leaves[0], torch.ones(50, dtype=torch.float64))
        total.backward()
        found[dtype] = loss, *(leaf.grad for leaf in leaves)
    for mixed, exact in zip(found[torch.float32], found[torch.float64], strict=True):
        assert mixed.dtype == torch.float32
        error = (mixed.double() - exact).norm() / exact.norm()
        assert error < 1e-2  # 2^-8 is 4e-3


@pytest.fixture
def avx512_bf16_alone(monkeypatch):
    """As with AVX512-BF16 and without AMX: products of gradients have bf16 factors."""
    monkeypatch.setattr("sedd_cli.models.head.bf16_without_amx", lambda: True)


@pytest.mark.usefixtures("avx512_bf16_alone")
def test_products_of_gradients_have_bf16_factors_on_a_cpu_without_amx():
    g = torch.Generator().manual_seed(0)
    graph, found = GRAPHS["absorbing"](vocab_size=700), {}
    hidden, weight = torch.randn(512, 48, generator=g), 0.1 * torch.randn(graph.states, 48, generator=g)
    x0, x = torch.randint(700, (512,), generator=g), torch.full((512,), graph.mask)
    tiles = ScoreEntropyTiles(kernels_of(graph), Targets(x, x0, torch.full((512,), 0.7, dtype=torch.float64)))
    for mixed in (True, False):
        leaves = [p.clone().requires_grad_() for p in (hidden, weight, torch.zeros(graph.states))]
        total, _ = weighted_loss(Readout(leaves[1], leaves[2], mixed), tiles, leaves[0], torch.ones(512).double())
        total.backward()
        found[mixed] = [leaf.grad for leaf in leaves]
    errors = [float((a - b).norm() / b.norm()) for a, b in zip(found[True], found[False], strict=True)]
    assert all(1e-5 < error < 1e-2 for error in errors)


@pytest.mark.usefixtures("avx512_bf16_alone")
def test_the_gradient_of_the_bias_is_summed_in_float32():
    g = torch.Generator().manual_seed(0)
    scale, gradient = 0.5 + torch.rand(4096, generator=g), (1 + torch.randn(4096, 64, generator=g)).bfloat16()
    found = _row_sum(Readout(torch.zeros(64, 8), torch.zeros(64), mixed=True), scale, gradient)
    torch.testing.assert_close(found.double(), scale.double() @ gradient.double(), rtol=1e-5, atol=0)


@pytest.mark.parametrize(("mixed", "sizes"), [(True, {64, 128}), (False, {1, 63, 64, 65})])
def test_mixed_products_come_in_few_sizes(monkeypatch, mixed, sizes):
    """A kernel is made and kept for every size: masked positions come in all of them."""
    seen, product = set(), Readout.product

    def watched(self, a, b, out=None):
        seen.add(len(a) if a.shape[1] == 8 else 64)  # rows of hidden states
        return product(self, a, b, out)

    monkeypatch.setattr(Readout, "product", watched)
    graph = GRAPHS["absorbing"](vocab_size=30)
    readout = Readout(torch.randn(31, 8), torch.zeros(31), mixed)
    for R in (1, 63, 64, 65):
        hidden, at = torch.randn(R, 8), torch.full((R,), graph.mask)
        targets = Targets(at, at - 1, torch.ones(R, dtype=torch.float64))
        assert readout(hidden).shape == (R, 31)
        tiles = ScoreEntropyTiles(kernels_of(graph), targets)
        assert weighted_loss(readout, tiles, hidden, targets.sigma)[1].shape == (R,)
        assert losses(readout, tiles, hidden).shape == (R,)
    assert seen == sizes


def test_the_network_scores_in_float32_under_mixed_precision():
    config = DiTConfig(n_blocks=1, hidden_size=32, n_heads=2, cond_dim=8, length=16)
    net = DiT(config, 301, torch.bfloat16).eval()
    with torch.no_grad():
        for p in net.parameters():
            p.add_(0.5 * torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel())))
        z = net(torch.zeros(2, 16, dtype=torch.int64), torch.ones(2))
    assert z.dtype == torch.float32
    assert not torch.equal(z, z.bfloat16().float())
