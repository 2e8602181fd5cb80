"""Dropout: how many, which, and what is left."""

import shutil

import pytest
import torch
from support.toys import only_with_all

from sedd_cli.models.layers import LEVELS, dropout, hashed_dropout


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


def test_dropout_of_rate_0_keeps_all_and_near_1_drops_all():
    h = torch.randn(9)
    assert dropout(h, 0.0) is h
    assert dropout(h, 1e-6) is h  # below the resolution of 2^-16
    assert (dropout(h, 0.999999) == 0).all()
    assert dropout(torch.zeros(0, 3), 0.5).shape == (0, 3)


def gone(cut, shape=(1000, 1024)):
    """Where `hashed_dropout` puts zeros, as float64."""
    return (hashed_dropout(torch.ones(shape), cut) == 0).double()


def test_hashed_zeros_are_as_many_and_as_independent_as_coins():
    torch.manual_seed(0)
    p = 0.1
    zeros = [gone(round(p * LEVELS)) for _ in range(3)]
    coins, sigma = zeros[0].numel(), (p * (1 - p)) ** 0.5
    for drawn in zeros:
        assert abs(float(drawn.mean()) - p) < 5 * sigma / coins**0.5 + 1 / LEVELS
        # counts in rows and columns scatter as binomial ones do: χ² over its degrees of freedom, five deviations
        for axis in (0, 1):
            counts = drawn.sum(axis)
            chi2 = float(((counts - counts.mean()) ** 2).sum() / (drawn.shape[axis] * p * (1 - p)))
            assert abs(chi2 - len(counts)) < 5 * (2 * len(counts)) ** 0.5
        flat = drawn.flatten() - p
        for lag in (1, 2, 3, 4, 8, 64, 1023, 1024, 65536):
            assert abs(float((flat[:-lag] * flat[lag:]).mean())) < 5 * sigma**2 / coins**0.5
    # calls draw anew, independently of each other
    for one, other in ((0, 1), (0, 2), (1, 2)):
        assert abs(float(((zeros[one] - p) * (zeros[other] - p)).mean())) < 5 * sigma**2 / coins**0.5


def test_hashed_dropout_is_a_function_of_torchs_seed():
    def drawn(seed):
        torch.manual_seed(seed)
        return gone(6554)

    assert torch.equal(drawn(3), drawn(3))
    assert not torch.equal(drawn(3), drawn(4))


@only_with_all
@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="compiling needs a C++ compiler")
def test_compiled_hashed_dropout_keeps_no_mask_and_has_the_gradient_of_its_zeros():
    def branch(h, a):
        return torch.nn.functional.gelu(h + hashed_dropout(a, 26214))

    h, a = torch.randn(64, 96).requires_grad_(), torch.randn(64, 96).requires_grad_()
    out = torch.compile(branch)(h, a)
    kept = out.grad_fn.saved_tensors
    assert not any(t.dtype == torch.bool for t in kept)
    out.sum().backward()
    # d/da is that of h, scaled where a was kept and 0 where it was not
    ratio = a.grad / h.grad
    scale = LEVELS / (LEVELS - 26214)
    is_kept = (ratio - scale).abs() < 1e-3
    assert bool((is_kept | (a.grad == 0)).all())
    assert float(is_kept.double().mean()) == pytest.approx(0.6, abs=0.03)
    # and they are the zeros of the forward pass
    torch.testing.assert_close(out, torch.nn.functional.gelu(h + torch.where(is_kept, a * scale, 0.0)))
