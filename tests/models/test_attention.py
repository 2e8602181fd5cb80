"""Every attention kernel computes the same bidirectional attention."""

import math
import sys
from types import ModuleType

import pytest
import torch

from sedd_cli.models import attention, dit
from sedd_cli.models.attention import ATTENTION, PLAIN_UP_TO, choose, flash_installed

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
def test_every_kernel_computes_attention(kernel, L):
    q, k, v = qkv(L)
    # float32 sums of eight and eleven terms
    torch.testing.assert_close(ATTENTION[kernel](q, k, v).double(), slow(q, k, v), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kernel", KERNELS)
def test_every_kernel_has_the_gradients_of_attention(kernel):
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

    before = "flash_attn" in sys.modules
    assert flash_installed() == (importlib.util.find_spec("flash_attn") is not None)
    assert ("flash_attn" in sys.modules) == before


@pytest.fixture
def flash_double(monkeypatch):
    """A stand-in for flash-attn that insists on what the package documents, and computes in float64."""
    calls = []

    def flash_attn_func(q, k, v, dropout_p=0.0, softmax_scale=None, causal=False):
        for given in (q, k, v):
            assert given.dtype in (torch.float16, torch.bfloat16)
            assert given.dim() == 4  # batch, length, heads, head size
            assert given.shape == q.shape
            assert given.shape[-1] <= 256
            assert given.shape[-1] % 8 == 0
            assert given.stride(-1) == 1
        assert (dropout_p, softmax_scale, causal) == (0.0, None, False)
        calls.append(tuple(q.shape))
        return slow(*(given.transpose(1, 2) for given in (q, k, v))).transpose(1, 2).to(q.dtype)

    module = ModuleType("flash_attn")
    module.flash_attn_func = flash_attn_func
    monkeypatch.setitem(sys.modules, "flash_attn", module)
    return calls


def test_flash_is_called_as_its_package_asks(flash_double):
    q, k, v = qkv(dtype=torch.bfloat16)
    out = ATTENTION["flash"](q, k, v)
    assert flash_double == [(2, 11, 3, 8)]
    # the double rounds once, sdpa a few times: bfloat16 has 8 bits
    torch.testing.assert_close(out.float(), ATTENTION["sdpa"](q, k, v).float(), rtol=0, atol=0.03)
    with pytest.raises(AssertionError):
        ATTENTION["flash"](q.float(), k.float(), v.float())


def test_a_network_with_flash_is_the_network_with_sdpa(flash_double, monkeypatch):
    from sedd_cli.models.dit import DiT
    from sedd_cli.models.shape import DiTConfig

    monkeypatch.setattr(dit, "choose", lambda name, *_: name)  # there is no GPU to choose it for
    config = {"n_blocks": 2, "hidden_size": 32, "n_heads": 2, "cond_dim": 8, "dropout": 0.0, "length": 9}
    torch.manual_seed(0)
    nets = [DiT(DiTConfig(**config, attention=kernel), 12, autocast=torch.bfloat16) for kernel in ("flash", "sdpa")]
    with torch.no_grad():
        for p in nets[0].parameters():
            p.add_(0.1 * torch.randn_like(p))
        nets[1].load_state_dict(nets[0].state_dict())
        x, sigma = torch.randint(12, (3, 9)), torch.tensor([0.1, 1.0, 3.0])
        found, wanted = (net(x, sigma) for net in nets)
    assert flash_double == [(3, 9, 2, 16)] * 2
    assert wanted.std() > 0.1
    torch.testing.assert_close(found, wanted, rtol=0, atol=0.05 * float(wanted.std()))


@pytest.mark.parametrize(
    ("name", "device", "dtype", "length", "head_dim", "installed", "capability", "kernel"),
    [
        ("auto", "cuda", torch.bfloat16, 1024, 64, True, (9, 0), "flash"),
        ("auto", "cuda", torch.bfloat16, 1024, 64, True, (7, 5), "sdpa"),  # flash-attn needs Ampere or newer
        ("auto", "cuda", torch.bfloat16, 1024, 512, True, (9, 0), "sdpa"),
        ("auto", "cuda", torch.bfloat16, 1024, 20, True, (9, 0), "sdpa"),
        ("auto", "cuda", torch.bfloat16, 1024, 64, False, (9, 0), "sdpa"),
        ("auto", "cuda", torch.float32, 1024, 64, True, (9, 0), "sdpa"),
        ("auto", "cpu", torch.bfloat16, PLAIN_UP_TO, 64, True, None, "plain"),
        ("auto", "cpu", torch.bfloat16, PLAIN_UP_TO + 1, 64, True, None, "sdpa"),
        ("auto", "cpu", torch.float32, 8, 64, True, None, "sdpa"),
        ("plain", "cuda", torch.bfloat16, 1024, 64, True, (9, 0), "plain"),
        ("sdpa", "cuda", torch.bfloat16, 1024, 64, True, (9, 0), "sdpa"),
        ("flash", "cuda", torch.bfloat16, 1024, 64, True, (9, 0), "flash"),
        ("flash", "cuda", torch.float32, 1024, 64, True, (9, 0), "sdpa"),  # a model trained with it, in another dtype
        ("flash", "cpu", torch.bfloat16, 8, 64, True, None, "sdpa"),  # and on another machine
    ],
)
def test_the_kernel_that_a_name_stands_for(
    monkeypatch, name, device, dtype, length, head_dim, installed, capability, kernel
):
    monkeypatch.setattr(attention, "flash_installed", lambda: installed)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert choose(name, torch.device(device), dtype, length, head_dim) == kernel
