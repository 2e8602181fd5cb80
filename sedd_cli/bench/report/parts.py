"""The parts of a training step, and its kernels on a GPU."""

from __future__ import annotations

from collections.abc import Callable, Generator
from functools import partial

import torch
from torch import Tensor, nn

from sedd_cli.bench.loss import FixedTrunk
from sedd_cli.bench.report.measurement import Figure, Setting
from sedd_cli.core.random import NOISE, Stream
from sedd_cli.core.score import ScoreModel
from sedd_cli.system.events import Event
from sedd_cli.training.state import TrainState
from sedd_cli.training.step import time_uniforms

Events = Generator["Figure | Event", None, None]
#: The most kernels that are listed.
KERNELS = 15


def parts_of_a_step(setting: Setting, state: TrainState, whole: float) -> Events:
    """Seconds of the parts of a step, each alone; together they may differ from the whole step."""
    recipe, net, graph, schedule = state.recipe, state.model.net, state.model.graph, state.model.schedule
    objective, device = recipe.objective.make(), setting.device
    options = setting.bench(recipe, recipe.train.batch)
    x0, index = options.tokens(device), torch.arange(recipe.train.batch)

    def noise() -> tuple[Tensor, Tensor, Tensor, Tensor]:
        v = time_uniforms(recipe, state.step, index).to(device)
        count = objective.corruptions
        u = Stream(recipe.seed, NOISE, index.to(device)).uniforms(state.step, count * recipe.model.length)[0]
        sigma = schedule(v)[0].repeat(count)
        return v, u, sigma, graph.perturb(x0.repeat(count, 1), sigma, torch.cat(u.chunk(count, 1)))

    v, u, sigma, x = noise()
    shown = partial(Figure, unit="ms", table="training by part")

    def figure(what: str, seconds: float, note: str = "") -> Figure:
        return shown(what, 1e3 * seconds, note=f"{seconds / whole:.0%} of a step" + (f"; {note}" if note else ""))

    yield shown("whole step", 1e3 * whole, note=f"{len(x0)} sequences")
    yield figure("noise levels, noise and corruption", setting.median(noise))
    forward = setting.median(lambda: net.hidden(x, sigma))
    yield figure("trunk, forward", forward)
    grad = torch.randn_like(net.hidden(x, sigma))
    both = setting.median(lambda: net.hidden(x, sigma).backward(grad))
    yield figure("trunk, backward", both - forward, "forward and backward less forward")
    trunk = FixedTrunk(torch.randn_like(grad), net.readout)
    model = ScoreModel(trunk, graph, schedule, parametrization=objective.parametrization)
    yield figure(
        "head and loss, with gradients", setting.median(lambda: objective.loss(model, x0, v, u).total.backward())
    )

    def update() -> None:
        nn.utils.clip_grad_norm_(net.parameters(), recipe.train.clip)
        state.update()

    for p in net.parameters():
        p.grad = torch.zeros_like(p)
    yield figure("clipping, optimizer and EMA", setting.median(update))


def kernels(setting: Setting, step: Callable[[], None], whole: float) -> Events:
    """The kernels of one step on a GPU by their time, the share of time it is busy, and waits of the host."""
    from torch._C._autograd import DeviceType
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiled:
        step()
        torch.cuda.synchronize(setting.device)
    events = profiled.key_averages()
    found = [e for e in events if e.device_type == DeviceType.CUDA and not getattr(e, "is_user_annotation", False)]
    found.sort(key=lambda e: -e.self_device_time_total)
    total = sum(e.self_device_time_total for e in found) / 1e6
    shown = partial(Figure, table="kernels of a training step")
    yield shown("all kernels", 1e3 * total, "ms", note=f"{total / whole:.0%} of an unprofiled step")
    waits = sum(e.count for e in events if e.key in ("cudaStreamSynchronize", "cudaEventSynchronize"))
    yield shown("waits of the host for the GPU", waits, "a step")
    yield shown("kernel launches", sum(e.count for e in found), "a step")
    for e in found[:KERNELS]:
        seconds = e.self_device_time_total / 1e6
        note = f"{seconds / total:.1%}, {e.count} launches"
        yield shown(e.key[:100], 1e3 * seconds, "ms", note=note)
