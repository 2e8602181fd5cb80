"""Training: the fastest micro-batch, tokens/s, share of the peak, memory, the parts of a step and its kernels."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator

import torch
from torch import Tensor, nn

from sedd_cli.bench.compare import synchronize
from sedd_cli.bench.report.measurement import COMPILING, PLAIN_SHARE, Figure, Setting, lacks, line_of, release
from sedd_cli.bench.report.parts import kernels, parts_of_a_step
from sedd_cli.bench.train import fresh_state, one_batch, plain_step
from sedd_cli.errors import out_of_memory
from sedd_cli.models.precision import native_bf16
from sedd_cli.recipe import Recipe
from sedd_cli.system.events import Event, Progress
from sedd_cli.system.memory import begin_peak, free_memory, held, peak
from sedd_cli.training.autotune import MIN_SPEEDUP
from sedd_cli.training.flops import flops_a_token, known_peak
from sedd_cli.training.state import TrainState
from sedd_cli.training.step import gradients

Events = Generator["Figure | Event", None, None]


def training(setting: Setting) -> Events:
    """The recipe's training step, against the plain path, by part and by kernel."""
    yield from _training(setting, setting.recipe, setting.sizes.train, parts=True)


def larger_training(setting: Setting) -> Events:
    """The training step of the larger recipe, with fewer micro-batches and without parts."""
    yield from _training(setting, setting.larger, setting.sizes.train[:-2] or setting.sizes.train, parts=False)


def flops_a_sequence(setting: Setting, recipe: Recipe) -> float:
    """Useful FLOPs of a training step for each sequence."""
    graph, schedule, _ = setting.bench(recipe, 1).parts()
    return flops_a_token(recipe.model, graph, schedule, recipe.objective.make().causal) * recipe.model.length


def _training(setting: Setting, recipe: Recipe, sizes: tuple[int, ...], parts: bool) -> Events:
    state = fresh_state(setting.bench(recipe, 1), compiled=False)
    yield Figure("attention", state.model.net.kernel())
    rates: dict[int, float] = {}
    for size in sizes:
        before = max(rates.values(), default=0.0)
        fits = yield from _eager(setting, state, size, rates)
        if not fits or rates[size] < MIN_SPEEDUP * before or setting.left() < 0:
            break
    if not rates:
        raise MemoryError
    best = next(size for size, rate in rates.items() if rate * MIN_SPEEDUP >= max(rates.values()))
    rate, memory = rates[best], None
    if setting.left() < 0.8 * COMPILING[setting.device.type]:
        yield Figure("compiled blocks", "skipped", note="no time is left for compiling")
        state.recipe = one_batch(state.recipe, best)
    else:
        del state
        release(setting)
        state = yield from _compiled(setting, recipe, best)
    step, x0 = _step(setting, state)
    begin_peak(setting.device)
    seconds = setting.median(step, 5)
    memory, rate = peak(setting.device), max(x0.numel() / seconds, 0 if state.compiled else rate)
    mode = "compiled" if state.compiled else "eager"
    yield Figure("training", rate, "tokens/s", note=f"{best} × {recipe.model.length} tokens, {mode}")
    flops = rate * flops_a_sequence(setting, recipe) / recipe.model.length
    yield Figure("of the measured peak", flops / setting.peak, "share", note=f"{flops / 1e12:.4g} TFLOP/s useful")
    if known := known_peak(setting.device):
        yield Figure("MFU", flops / known, "share", note="of the data sheet's peak")
    yield Figure("peak memory", memory / 2**30, "GiB")
    hours = recipe.train.steps * recipe.train.batch * recipe.model.length / rate / 3600
    yield Figure("all steps of the recipe", hours, "hours")
    if parts:
        yield from _kept(parts_of_a_step(setting, state, seconds), "training by part")
        if setting.cuda():
            yield from _kept(kernels(setting, step, seconds), "kernels")
    del state, step, x0
    release(setting)
    yield from _plain(setting, recipe, rate)


def _kept(events: Events, what: str) -> Events:
    """The events, and a figure instead of an error: what follows does not depend on them."""
    try:
        yield from events
    except Exception as error:
        note = line_of(error)
        error.__traceback__ = None
        yield Figure(what, "failed", note=note)


def _step(setting: Setting, state: TrainState) -> tuple[Callable[[], None], Tensor]:
    """A whole training step of `train.batch` sequences of random tokens, and the tokens."""
    x0 = setting.bench(state.recipe, state.recipe.train.batch).tokens(setting.device)
    net, clip = state.model.net.train(), state.recipe.train.clip

    def step() -> None:
        gradients(state, x0, range(len(x0)))
        float(nn.utils.clip_grad_norm_(net.parameters(), clip))  # training looks at the norm in every step
        state.update()

    return step, x0


def _eager(
    setting: Setting, state: TrainState, size: int, rates: dict[int, float]
) -> Generator[Figure | Event, None, bool]:
    """Measure a micro-batch without compiled blocks, into `rates`; whether it fits."""
    yield Progress("training", size, None, "sequences")
    if rates and (expected := 2 * (peak(setting.device) - held(setting.device))) > free_memory(setting.device):
        yield Figure(f"{size} sequences", "skipped", note=lacks(setting, expected))
        return False
    state.recipe = one_batch(state.recipe, size)
    step, x0 = _step(setting, state)
    begin_peak(setting.device)
    try:
        seconds = setting.median(step, 3)
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        if not out_of_memory(error):
            raise
        error.__traceback__ = None  # the traceback holds the tensors
        state.model.net.zero_grad(set_to_none=True)
        yield Figure(f"{size} sequences", "does not fit into memory")
        return False
    rates[size] = x0.numel() / seconds
    share = rates[size] * flops_a_sequence(setting, state.recipe) / state.recipe.model.length / setting.peak
    note = f"{peak(setting.device) / 2**30:.1f} GiB, {share:.1%} of the measured peak"
    yield Figure(f"{size} sequences, eager", rates[size], "tokens/s", note=note)
    return True


def _compiled(setting: Setting, recipe: Recipe, batch: int) -> Generator[Figure | Event, None, TrainState]:
    """A state with compiled blocks, or without where compiling fails, which is reported."""
    yield Progress("compiling", 0, None)
    holder: list[TrainState] = []
    seconds = _once(setting, lambda: holder.append(fresh_state(setting.bench(recipe, batch), compiled=True)))
    state = holder.pop()
    if not state.compiled:
        yield Figure("compiled blocks", "failed", note="; ".join(state.notices) or "torch.compile does not work here")
        return state
    step, _ = _step(setting, state)
    try:
        seconds += _once(setting, step)
    except Exception as error:  # a compiler can fail in any way; the report goes on without it
        note = line_of(error)
        error.__traceback__ = None
        yield Figure("compiled blocks", "failed", note=f"training continues without it ({note})")
        del state, step
        release(setting)
        return fresh_state(setting.bench(recipe, batch), compiled=False)
    yield Figure("compilation and first step", seconds, "s")
    return state


def _once(setting: Setting, work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    synchronize(setting.device)
    return time.perf_counter() - began


def _plain(setting: Setting, recipe: Recipe, rate: float) -> Events:
    """The plain path: float32, and under bf16 autocast where bf16 is native."""
    kinds = {"float32": None} | ({"bf16 autocast": torch.bfloat16} if native_bf16(setting.device) else {})
    for kind, dtype in kinds.items():
        what = f"against the plain path in {kind}"
        for batch in setting.sizes.plain:
            needed = setting.seconds(2 * batch * flops_a_sequence(setting, recipe), PLAIN_SHARE)
            if setting.left() < needed:
                note = f"needs about {needed:.0f} s, {max(setting.left(), 0):.0f} s left"
                yield Figure(what, "skipped", note=note)
                break
            cells = batch * recipe.model.length * setting.bench(recipe, 1).vocab_size()
            if not setting.cuda() and (why := lacks(setting, 4 * 8 * cells)):
                yield Figure(what, "skipped", note=f"{batch} sequences: {why}")
                continue
            try:
                step = plain_step(setting.bench(recipe, batch), dtype)
                plain = batch * recipe.model.length / setting.median(step, 3)
                yield Figure(what, rate, "tokens/s", plain, note=f"plain with {batch} sequences")
                break
            except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
                if not out_of_memory(error):
                    raise
                error.__traceback__ = None
                yield Figure(what, "does not fit into memory", note=f"{batch} sequences")
            finally:
                step = None
                release(setting)
