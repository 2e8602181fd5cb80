"""Dropout: how many, which, and what is left."""

import pytest
import torch

from sedd_cli.models.layers import LEVELS, dropout


@pytest.mark.parametrize("p", [0.1, 0.5, 0.93])
def test_the_share_of_zeros_and_the_mean(p):
    torch.manual_seed(0)
    h = torch.ones(1000, 1003)
    out = dropout(h, p)
    # five standard deviations of a million coins, and p's rounding to 2^-16
    share = float((out == 0).double().mean())
    assert abs(share - p) < 5 * (p * (1 - p) / h.numel()) ** 0.5 + 1 / LEVELS
    assert out.max() == pytest.approx(1 / (1 - p), rel=1e-3)
    assert float(out.double().mean()) == pytest.approx(1, abs=5 * (p / (1 - p) / h.numel()) ** 0.5)


def test_bf16_keeps_the_mean():
    torch.manual_seed(0)
    h = 1 + torch.rand(2**22)  # whose roundings average out, unlike those of a constant
    out = dropout(h.bfloat16(), 0.1)
    # a factor rounded to bf16 would be 0.16 % too small: 10 standard errors
    assert float(out.double().mean() / h.double().mean()) == pytest.approx(1, abs=5 * (1 / 9 / h.numel()) ** 0.5 * 1.03)


def test_elements_are_dropped_independently():
    torch.manual_seed(0)
    gone = (dropout(torch.ones(2**20), 0.3) == 0).double()
    for apart in (1, 2, 3, 4, 5, 64):  # four elements share a word of the generator
        both = float((gone[apart:] * gone[:-apart]).mean())
        assert abs(both - 0.09) < 5 * (0.09 * 0.91 / 2**20) ** 0.5


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_the_gradient_is_that_of_what_was_kept(dtype):
    torch.manual_seed(0)
    h = torch.randn(37, 5, dtype=dtype).requires_grad_()
    out = dropout(h, 0.4)
    assert out.dtype == dtype
    out.backward(torch.ones_like(out))
    kept = out != 0
    assert (h.grad[~kept] == 0).all()
    torch.testing.assert_close(
        h.grad[kept].double(), torch.full_like(h.grad[kept].double(), 1 / 0.6), rtol=0.01, atol=0
    )
    assert 0 < int(kept.sum()) < kept.numel()


def test_masks_follow_torchs_seed():
    h = torch.ones(100)
    masks = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        masks.append(dropout(h, 0.5))
    assert torch.equal(masks[0], masks[1])
    assert not torch.equal(masks[0], masks[2])


def test_nothing_and_everything():
    h = torch.randn(9)
    assert dropout(h, 0.0) is h
    assert dropout(h, 1e-6) is h  # below the resolution of 2^-16
    assert (dropout(h, 0.999999) == 0).all()
    assert dropout(torch.zeros(0, 3), 0.5).shape == (0, 3)
