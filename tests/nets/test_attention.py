"""Every attention kernel computes the same bidirectional attention."""

import math

import pytest
import torch

from sedd_cli.nets.attention import ATTENTION, flash_installed

KERNELS = sorted(ATTENTION.keys() - {"flash"})


def qkv(L: int = 11, dtype: torch.dtype = torch.float32) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(2, 3, L, 8, generator=generator).to(dtype) for _ in range(3)]


def slow(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """One query at a time, in float64."""
    q, k, v = (value.double() for value in (q, k, v))
    out = torch.empty_like(q)
    for b in range(q.shape[0]):
        for h in range(q.shape[1]):
            for i in range(q.shape[2]):
                weights = torch.stack([(q[b, h, i] * key).sum() for key in k[b, h]]) / math.sqrt(q.shape[-1])
                weights = weights.exp() / weights.exp().sum()
                out[b, h, i] = (weights[:, None] * v[b, h]).sum(0)
    return out


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("L", [1, 2, 11])
def test_kernel_is_attention(kernel, L):
    q, k, v = qkv(L)
    # float32 sums of eight and eleven terms
    torch.testing.assert_close(ATTENTION[kernel](q, k, v).double(), slow(q, k, v), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kernel", KERNELS)
def test_gradients_agree(kernel):
    def gradients(attend):
        inputs = [value.requires_grad_() for value in qkv()]
        return torch.autograd.grad((attend(*inputs).double() ** 2).sum(), inputs)

    for mine, truth in zip(gradients(ATTENTION[kernel]), gradients(slow), strict=True):
        torch.testing.assert_close(mine, truth, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kernel", KERNELS)
def test_bfloat16_stays_bfloat16_and_close(kernel):
    q, k, v = qkv(dtype=torch.bfloat16)
    out = ATTENTION[kernel](q, k, v)
    assert out.dtype == torch.bfloat16
    # weights and values of size 1 with 8 bits each: 2^-8 apiece, and the scores under the exponential
    torch.testing.assert_close(out.double(), slow(q, k, v), rtol=0, atol=0.03)


def test_flash_is_found_without_importing_it():
    import importlib.util
    import sys

    before = "flash_attn" in sys.modules
    assert flash_installed() == (importlib.util.find_spec("flash_attn") is not None)
    assert ("flash_attn" in sys.modules) == before
