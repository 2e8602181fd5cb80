"""Sampling and likelihood: texts/s and blocks/s, against the plain path."""

from __future__ import annotations

import math
import time
from collections.abc import Generator

import torch

from sedd_cli.bench import plain
from sedd_cli.bench.report.measurement import PLAIN_SHARE, Figure, Setting, SkippedError, lacks, release
from sedd_cli.bench.sample import fresh_nets, plain_seconds
from sedd_cli.core.conditioning import Conditioning
from sedd_cli.core.random import BOUND, Stream
from sedd_cli.core.samplers import SAMPLERS
from sedd_cli.core.score import ScoreModel
from sedd_cli.errors import WorkError, out_of_memory
from sedd_cli.inference.bound import MonteCarloOptions, draw_bounds
from sedd_cli.models.compile import compile_for_inference
from sedd_cli.models.dit import DiT
from sedd_cli.models.precision import full_float32, native_bf16
from sedd_cli.models.timing import synchronize
from sedd_cli.system.events import Event, Progress
from sedd_cli.training.flops import head_flops, trunk_flops_a_token

Events = Generator["Figure | Event", None, None]
#: The largest share of the remaining time that one batch of samples may take before it is extrapolated.
OF_WHAT_IS_LEFT = 0.5
#: Steps before the timed run: CUDA graphs are recorded meanwhile, and memory is allocated.
WARM_UP = 8


def short_sampling(setting: Setting) -> Events:
    """Samples with few steps, for each batch size."""
    yield from _sampling(setting, setting.sizes.steps[0])


def long_sampling(setting: Setting) -> Events:
    """Samples with many steps, for each batch size."""
    yield from _sampling(setting, setting.sizes.steps[1])


def compiled_sampling(setting: Setting) -> Events:
    """Samples with few steps and compiled blocks (`--compile`), for each batch size."""
    if setting.device.type != "cuda":
        raise SkippedError("measured on GPUs only")
    yield from _sampling(setting, setting.sizes.steps[0], compiled=True)


def evaluation_flops(setting: Setting) -> float:
    """FLOPs of one evaluation of the trunk on one sequence."""
    return trunk_flops_a_token(setting.recipe.model) * setting.recipe.model.length


def _sampling(setting: Setting, steps: int, compiled: bool = False) -> Events:
    objective = setting.recipe.objective.make()
    if objective.causal:
        raise SkippedError("measured for diffusion models only")
    options = setting.bench(setting.recipe, 1)
    graph, schedule, _ = options.parts()
    net, slow_net = fresh_nets(options)
    if compiled and (reason := compile_for_inference(net)):
        raise WorkError(reason)
    score = ScoreModel(net, graph, schedule, parametrization=objective.parametrization)
    slow: tuple[int, float] | None = None  # the plain path's largest batch that fitted, and seconds of a step
    for batch in setting.sizes.sample:
        yield Progress("sampling", 0, None, metrics={"now": f"{batch} texts, {steps} steps"})
        seconds, done, evaluations = yield from _run(setting, score, batch, steps)
        whole = seconds * (steps + 1) / done
        note = f"{1e3 * seconds / max(evaluations, 1):.1f} ms an evaluation, {evaluations} evaluations"
        if done < steps + 1:
            note += f"; extrapolated from {done} of {steps + 1} steps"
        slow = _plain(setting, slow_net, batch, steps) or slow
        baseline = None
        if slow is not None:
            baseline = slow[0] / (slow[1] * (steps + 1))
            note += f"; plain: {1e3 * slow[1]:.1f} ms a step of {slow[0]} texts"
        what = f"{batch} texts, {steps} steps" + (", compiled" if compiled else "")
        yield Figure(what, batch / whole, "texts/s", baseline, note=note)
        if setting.left() < 0:
            return


def _run(setting: Setting, score: ScoreModel, batch: int, steps: int) -> Generator[Event, None, tuple[float, int, int]]:
    """Sample a batch: (seconds, steps done, evaluations); it stops early where time is short."""
    index = torch.arange(batch, device=setting.device)
    nothing = Conditioning.nothing(batch, setting.recipe.model.length, setting.device)
    with torch.no_grad():
        for _ in SAMPLERS["tweedie"](steps=WARM_UP).run(score, nothing, 0, index):
            pass
    allowed, done, evaluations = OF_WHAT_IS_LEFT * setting.left(), 0, index.new_zeros(1)
    synchronize(setting.device)
    began = time.perf_counter()
    sampler = SAMPLERS["tweedie"](steps=steps).run(score, nothing, 0, index)
    while True:
        with torch.no_grad():  # not over a yield, which would leave it set for others
            now = next(sampler, None)
        if now is None:
            break
        done = done + 1
        evaluations = now.evaluations
        if time.perf_counter() - began > allowed:
            break
        yield Progress("sampling", done, steps + 1, "step")
    synchronize(setting.device)
    return time.perf_counter() - began, done, int(evaluations.max())


def _plain(setting: Setting, net: DiT, batch: int, steps: int) -> tuple[int, float] | None:
    """(batch, median seconds of a plain step) in the faster of float32 and bf16 autocast.

    None where the batch does not fit, and for graphs that the published code does not have.
    """
    if setting.recipe.graph.name not in plain.PUBLISHED:
        return None
    length, states = net.config.length, net.states
    flops = 4 * batch * (evaluation_flops(setting) + length * 2 * net.config.hidden_size * states)
    # transitions of all tokens, one-hot positions in int64 among them
    if setting.left() < setting.seconds(flops, PLAIN_SHARE) or lacks(setting, 40 * batch * length * states):
        return None
    graph, schedule, _ = setting.bench(setting.recipe, batch).parts()
    times = []
    for dtype in (None, torch.bfloat16) if native_bf16(setting.device) else (None,):
        net.autocast = dtype
        try:
            with torch.no_grad():
                plain_seconds(net, graph, schedule, batch, steps, (0.5,))
                times.append(sorted(plain_seconds(net, graph, schedule, batch, steps))[1])
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
            error.__traceback__ = None
            release(setting)
    return (batch, min(times)) if times else None


def likelihood(setting: Setting) -> Events:
    """Blocks/s of the rigorous bound, one draw each, against the plain loss without gradients in float32."""
    if setting.recipe.objective.make().causal:
        raise SkippedError("measured for diffusion models only")
    batch = setting.sizes.likelihood
    options = setting.bench(setting.recipe, batch)
    graph, schedule, device = options.parts()
    objective = setting.recipe.objective.make()
    net, slow_net = fresh_nets(options)
    score = ScoreModel(net, graph, schedule, parametrization=objective.parametrization)
    x0, index = options.tokens(device), torch.arange(batch)
    v = (torch.arange(batch, dtype=torch.float64) + 0.5) / batch
    estimator = MonteCarloOptions().estimator_for(graph, "rigorous")
    cost = torch.full(x0.shape, math.log(graph.vocab_size), dtype=torch.float64, device=device)
    stream = Stream(0, BOUND, index)

    def bound() -> None:
        draw_bounds(score, ("rigorous",), estimator, x0, v, stream, 0, cost if estimator == "count" else None)

    rate = batch / setting.median(bound, 5)
    what = "rigorous bound, one draw a block"
    yield Figure(what, rate, "blocks/s", note=f"{batch} × {x0.shape[1]} tokens, estimator {estimator}")
    few = min(2, batch)
    flops = 4 * few * (evaluation_flops(setting) + x0.shape[1] * head_flops(net.config, graph))
    needed = 4 * 8 * few * x0.shape[1] * graph.states
    if setting.left() > setting.seconds(flops, PLAIN_SHARE) and not lacks(setting, needed):
        u = torch.rand(few, x0.shape[1], dtype=torch.float64, device=device)
        with torch.no_grad(), full_float32():
            seconds = setting.median(lambda: plain.loss(slow_net, graph, schedule, x0[:few], v[:few].to(device), u))
        yield Figure(f"{what}, against plain", rate, "blocks/s", few / seconds, note=f"plain: {few} blocks, float32")
