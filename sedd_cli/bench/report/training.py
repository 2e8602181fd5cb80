"""Training: the fastest micro-batch, tokens/s, share of the peak, memory, the parts of a step and its kernels."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from functools import partial

import torch
from torch import Tensor, nn

from sedd_cli.bench.report.measurement import COMPILING, PLAIN_SHARE, Figure, Setting, lacks, line_of, release
from sedd_cli.bench.report.parts import kernels, parts_of_a_step
from sedd_cli.bench.train import PlainTraining, fresh_state, one_batch
from sedd_cli.errors import out_of_memory
from sedd_cli.models.precision import native_bf16
from sedd_cli.models.timing import synchronize
from sedd_cli.recipe import Recipe
from sedd_cli.system.events import Event, Progress
from sedd_cli.system.memory import begin_peak, free_memory, peak, used_memory
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
    return flops_a_token(recipe.model, recipe.objective.make(), graph, schedule) * recipe.model.length


def _training(setting: Setting, recipe: Recipe, sizes: tuple[int, ...], parts: bool) -> Events:
    best = yield from _fastest(setting, recipe, sizes)
    release(setting)
    plain = yield from _plain(setting, recipe)
    release(setting)
    state, seconds, memory = yield from _fastest_compiled(setting, recipe, best)
    step, x0 = _step(setting, state)
    rate = x0.numel() / seconds
    note = f"{len(x0)} × {recipe.model.length} tokens, {'compiled' if state.compiled else 'eager'}"
    if recipe.train.optimizer != state.recipe.train.optimizer:
        note += f", {state.recipe.train.optimizer} in place of the recipe's {recipe.train.optimizer}"
    for kind, baseline in (plain or {"": None}).items():
        yield Figure(
            "training", rate, "tokens/s", baseline, note=f"{note}; baseline: plain in {kind}" if kind else note
        )
    flops = rate * flops_a_sequence(setting, recipe) / recipe.model.length
    yield Figure("of the measured peak", flops / setting.peak, "share", note=f"{flops / 1e12:.4g} TFLOP/s useful")
    if known := known_peak(setting.device):
        yield Figure("MFU", flops / known, "share", note="of the data sheet's peak")
    yield Figure("peak memory", memory / 2**30, "GiB")
    if recipe.train.optimizer == state.recipe.train.optimizer:
        hours = recipe.train.steps * recipe.train.batch * recipe.model.length / rate / 3600
        yield Figure("all steps of the recipe at this rate", hours, "hours")
    if parts:
        yield from _kept(parts_of_a_step(setting, state, seconds), "training by part")
        if setting.cuda():
            yield from _kept(kernels(setting, step, seconds), "kernels")


def _fastest(setting: Setting, recipe: Recipe, sizes: tuple[int, ...]) -> Generator[Figure | Event, None, int]:
    """Measure micro-batches of rising size without compiled blocks, until that brings nothing; the best one."""
    state = fresh_state(setting.bench(recipe, 1), compiled=False)
    yield Figure("attention", state.model.net.kernel())
    base, extra, rates = used_memory(setting.device), 0, {}
    for size in sizes:
        yield Progress("training", size, None, "sequences")
        begin_peak(setting.device)
        # what a step of half the size took, moments included, is at most doubled
        expected, free = 2 * extra, free_memory(setting.device) + used_memory(setting.device) - base
        if expected > free:
            note = f"may need {expected / 2**30:.1f} GiB, {free / 2**30:.1f} GiB are free"
            yield Figure(f"{size} sequences", "skipped", note=note)
            break
        state.recipe = one_batch(state.recipe, size)
        step, x0 = _step(setting, state)
        try:
            seconds = setting.median(step, 3)
        except (MemoryError, RuntimeError) as error:
            if not out_of_memory(error):
                raise
            error.__traceback__ = None  # the traceback holds the tensors
            yield Figure(f"{size} sequences", "does not fit into memory")
            break
        before, rates[size] = max(rates.values(), default=0.0), x0.numel() / seconds
        extra = peak(setting.device) - base
        share = flops_a_sequence(setting, recipe) * size / seconds / setting.peak
        note = f"{peak(setting.device) / 2**30:.1f} GiB, {share:.1%} of the measured peak"
        yield Figure(f"{size} sequences, eager", rates[size], "tokens/s", note=note)
        if rates[size] < MIN_SPEEDUP * before or setting.left() < 0:
            break
    if not rates:
        raise MemoryError
    return next(size for size, rate in rates.items() if rate * MIN_SPEEDUP >= max(rates.values()))


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


def _fastest_compiled(
    setting: Setting, recipe: Recipe, best: int
) -> Generator[Figure | Event, None, tuple[TrainState, float, int]]:
    """(state, median seconds of a step, peak bytes) of the faster of two micro-batches: that one, and half of it.

    Half is tried on a GPU only, where compiling the first left time and memory for it.
    """
    with torch._dynamo.config.patch(automatic_dynamic_shapes=False):  # each size is compiled by itself
        began = time.perf_counter()
        first = yield from _timed(setting, recipe, best)
        if not (setting.cuda() and first[0].compiled and best > 1):
            return first
        if setting.left() < 2 * (time.perf_counter() - began):
            return first
        release(setting)
        try:
            second = yield from _timed(setting, recipe, best // 2)
        except (MemoryError, RuntimeError) as error:  # beside the state of the first size
            if not out_of_memory(error):
                raise
            error.__traceback__ = None
            yield Figure(f"{best // 2} sequences, compiled", "does not fit into memory")
            return first
    return min(first, second, key=lambda one: one[1] / one[0].recipe.train.batch)


def _timed(
    setting: Setting, recipe: Recipe, size: int
) -> Generator[Figure | Event, None, tuple[TrainState, float, int]]:
    """(state, median seconds of a step, peak bytes) of a compiled micro-batch; on a GPU without other states."""
    kept = used_memory(setting.device) if setting.cuda() else 0
    state = yield from _compiled(setting, recipe, size)
    step, x0 = _step(setting, state)
    begin_peak(setting.device)
    seconds = setting.median(step, 5)
    taken = peak(setting.device) - kept
    what = f"{size} sequences, {'compiled' if state.compiled else 'uncompiled'}"
    yield Figure(what, x0.numel() / seconds, "tokens/s", note=f"{taken / 2**30:.1f} GiB")
    return state, seconds, taken


def _compiled(setting: Setting, recipe: Recipe, batch: int) -> Generator[Figure | Event, None, TrainState]:
    """A state with compiled blocks, or without where compiling fails or takes too long, which is reported."""
    if setting.left() < COMPILING[setting.device.type]:
        yield Figure("compiled blocks", "skipped", note=f"{max(setting.left(), 0):.0f} s left")
        return fresh_state(setting.bench(recipe, batch), compiled=False)
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


def _plain(setting: Setting, recipe: Recipe) -> Generator[Figure | Event, None, dict[str, float]]:
    """Tokens/s of the plain path: in float32, and under bf16 autocast where bf16 is native."""
    kinds = {"float32": None} | ({"bf16 autocast": torch.bfloat16} if native_bf16(setting.device) else {})
    found: dict[str, float] = {}
    for kind, dtype in kinds.items():
        for batch in setting.sizes.plain:
            what = f"plain path in {kind}, {batch} sequences"
            needed = setting.seconds(2 * batch * flops_a_sequence(setting, recipe), PLAIN_SHARE)
            if setting.left() < needed:
                yield Figure(what, "skipped", note=f"needs about {needed:.0f} s, {max(setting.left(), 0):.0f} s left")
                continue
            # some eight tensors of all scores
            cells = batch * recipe.model.length * setting.bench(recipe, 1).vocab_size()
            if why := lacks(setting, 4 * 8 * cells):
                yield Figure(what, "skipped", note=why)
                continue
            yield Progress("plain path", batch, None, "sequences")
            try:
                seconds = setting.median(partial(PlainTraining(setting.bench(recipe, batch)).step, dtype), 3)
            except (MemoryError, RuntimeError) as error:
                if not out_of_memory(error):
                    raise
                error.__traceback__ = None
                yield Figure(what, "does not fit into memory")
                continue
            finally:
                release(setting)
            found[kind] = batch * recipe.model.length / seconds
            yield Figure(what, found[kind], "tokens/s")
            break
    return found
