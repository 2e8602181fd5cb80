"""Exactness checks: each kernel and each way of running gives what the plain one gives."""

from __future__ import annotations

import dataclasses
import tempfile
import warnings
from collections.abc import Callable, Generator
from contextlib import nullcontext
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from sedd_cli.bench.report.heads import difference, worst
from sedd_cli.bench.report.measurement import Figure, Setting, SkippedError, line_of
from sedd_cli.bench.report.trajectory import STEPS, one_process, resumed, tiny, two_processes
from sedd_cli.bench.train import fresh_state
from sedd_cli.models.attention import ATTENTION, flash_installed
from sedd_cli.models.precision import full_float32, native_bf16
from sedd_cli.recipe import Recipe
from sedd_cli.system.events import Event, Progress

Events = Generator["Figure | Event", None, None]
Attention = Callable[..., Tensor]
#: Largest relative difference of attention and its gradients (norms) from explicit products in float64.
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 1e-2}
#: Largest relative difference of losses and weights of two trainings in float32. On a GPU, sums in a changing order
#: differ by rounding, which Adam magnifies where gradients are small.
SAME = {"cpu": 1e-5, "cuda": 1e-3}


def check_attention(setting: Setting) -> Events:
    """Every attention kernel that runs here, against explicit products in float64, and its time."""
    config, device = setting.recipe.model, setting.device
    shape = config.n_heads, config.length, config.hidden_size // config.n_heads
    dtypes = (torch.float32, torch.bfloat16) if native_bf16(device) else (torch.float32,)
    for causal in (False, True):
        exact = _qkv((1, *shape), torch.float64, device)
        wanted = _with_gradients(ATTENTION["plain"], exact, causal)
        for dtype in dtypes:
            for name, attend in _kernels().items():
                label = f"attention: {name}, {str(dtype).removeprefix('torch.')}{', causal' if causal else ''}"
                yield Progress("attention", 0, None, metrics={"now": label})
                try:
                    qkv = tuple(t.detach().to(dtype).requires_grad_() for t in exact)
                    found = _with_gradients(attend, qkv, causal)
                except (RuntimeError, ImportError) as error:
                    yield Figure(label, "not available", note=_reason(error))
                    continue
                apart = worst([difference(mine, theirs) for mine, theirs in zip(found, wanted, strict=True)])
                yield Figure(label, apart, tolerance=TOLERANCE[dtype], note="worst of output and gradients")
    dtype = dtypes[-1]
    qkv = _qkv((setting.sizes.attention, *shape), dtype, device)
    for name, attend in _kernels().items():
        if setting.left() < 0:
            return
        try:
            seconds = setting.median(partial(_with_gradients, attend, qkv, False), 5)
        except (RuntimeError, ImportError):
            continue
        note = f"{setting.sizes.attention} × {shape[1]} tokens, {shape[0]} heads, {str(dtype).removeprefix('torch.')}"
        yield Figure(f"{name}, forward and backward", 1e3 * seconds, "ms", note=note, table="attention")


def _reason(error: Exception) -> str:
    """Why a kernel did not run; torch writes "no available kernel" or "no viable backend" in several sentences."""
    none = "No available kernel" in str(error) or "No viable backend" in str(error)
    return "not for this device and precision" if none else line_of(error)[:120]


def _qkv(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(0)
    made = (torch.randn(shape, generator=generator).to(device) for _ in range(3))
    # the same values in every precision
    return tuple(t.bfloat16().to(dtype).requires_grad_() for t in made)


@full_float32()
def _with_gradients(attend: Attention, qkv: tuple[Tensor, ...], causal: bool) -> list[Tensor]:
    """The output, and the gradients of q, k and v for a fixed random gradient of the output."""
    out = attend(*qkv, causal)
    generator = torch.Generator(out.device).manual_seed(1)
    grad = torch.randn(out.shape, generator=generator, device=out.device).bfloat16().to(out.dtype)
    return [out.detach(), *torch.autograd.grad(out, qkv, grad)]


def _kernels() -> dict[str, Attention]:
    """The attention kernels by name; calling one that does not run here raises RuntimeError."""
    from torch.nn.attention import SDPBackend

    found: dict[str, Attention] = {"plain": ATTENTION["plain"]}
    for name in ("FLASH_ATTENTION", "CUDNN_ATTENTION", "EFFICIENT_ATTENTION", "MATH"):
        if (backend := getattr(SDPBackend, name, None)) is not None:
            found[f"sdpa {name.removesuffix('_ATTENTION').lower()}"] = partial(_sdpa, backend)
    if flash_installed():
        found["flash-attn"] = ATTENTION["flash"]
    return found


def _sdpa(backend: object, q: Tensor, k: Tensor, v: Tensor, causal: bool) -> Tensor:
    from torch.nn.attention import SDPBackend, sdpa_kernel

    assert isinstance(backend, SDPBackend)
    with warnings.catch_warnings(), sdpa_kernel(backend):
        warnings.simplefilter("ignore")  # torch explains in several lines why a kernel does not run
        return ATTENTION["sdpa"](q, k, v, causal)


def shallow(recipe: Recipe) -> Recipe:
    """The recipe with two blocks and no dropout."""
    return dataclasses.replace(recipe, model=dataclasses.replace(recipe.model, n_blocks=2, dropout=0.0))


def check_compiled(setting: Setting) -> Events:
    """Two compiled blocks of the recipe's network against the same uncompiled ones, forward and gradients.

    The tolerance is twice the distance of the uncompiled ones from float32.
    """
    options = setting.bench(shallow(setting.recipe), 2)
    x, results = options.tokens(setting.device), {}
    sigma = torch.tensor([0.3, 2.0], device=setting.device)
    for kind in ("float32", "eager", "compiled"):
        yield Progress("compiled blocks", 0, None, metrics={"now": kind})
        state = fresh_state(options, compiled=kind == "compiled")
        if kind == "compiled" and not state.compiled:
            raise SkippedError("; ".join(state.notices) or "torch.compile does not work here")
        net = state.model.net
        if kind == "float32":
            net.autocast = None
        generator = torch.Generator().manual_seed(3)
        with torch.no_grad():  # in a fresh network blocks pass on their input
            for p in net.parameters():
                p.add_(0.02 * torch.randn(p.shape, generator=generator).to(p.device))
        with full_float32() if kind == "float32" else nullcontext():
            hidden = net.hidden(x, sigma)
            grad = torch.randn(hidden.shape, generator=generator).to(hidden)
            hidden.backward(grad)
        grads = [p.grad.flatten() for p in net.parameters() if p.grad is not None]
        results[kind] = hidden.detach(), torch.cat(grads)
    for what, exact, eager, compiled in zip(("forward", "gradients"), *results.values(), strict=True):
        rounding = difference(eager, exact)
        yield Figure(f"compiled blocks: {what}", difference(compiled, eager), tolerance=max(2 * rounding, 1e-5),
                     note=f"uncompiled from float32: {rounding:.2g}")  # fmt: skip


def check_resume(setting: Setting) -> Events:
    """A training that is stopped, stored and restored ends where an uninterrupted one ends."""
    recipe = tiny(setting.recipe)
    with tempfile.TemporaryDirectory(prefix="sedd-report-") as folder:
        losses, weights = one_process(recipe, setting.device)
        found, resumed_weights = resumed(recipe, setting.device, Path(folder))
    note = f"{STEPS} steps of a small network in float32, stored after {STEPS // 2}"
    yield Figure("resume: losses", difference(found, losses), tolerance=SAME[setting.device.type], note=note)
    yield Figure("resume: weights", difference(resumed_weights, weights), tolerance=SAME[setting.device.type])


def check_processes(setting: Setting) -> Events:
    """Two processes on the device train like one."""
    recipe = tiny(setting.recipe)
    yield Progress("two processes", 0, None)
    losses, weights = one_process(recipe, setting.device)
    with tempfile.TemporaryDirectory(prefix="sedd-report-") as folder:
        found, both_weights = two_processes(recipe, setting.device, Path(folder), setting.left())
    same, note = SAME[setting.device.type], "DDP over gloo, one device"
    yield Figure("two processes: losses", difference(found, losses), tolerance=same, note=note)
    yield Figure("two processes: weights", difference(both_weights, weights), tolerance=same)
