"""Which micro-batch is fastest within the memory: measured, step by step, never beyond what is predicted to fit."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator

import torch

from sedd_cli.errors import WorkError
from sedd_cli.nets.ema import local_part
from sedd_cli.runs.events import Event, Note, Progress
from sedd_cli.runs.memory import begin_peak, free_memory, peak
from sedd_cli.runs.trainstate import TrainState

#: Share of the free memory that a micro-batch may take.
MARGIN = 0.9
#: A larger micro-batch must be faster by this factor to be worth its memory.
WORTH = 1.03


def fit(state: TrainState, rows: range) -> Iterator[Event]:
    """Set the recipe's micro_batch to the fastest that fits, the same on every process.

    Sizes double. Each is timed on a batch in which every position counts, the worst case; the next is tried only if
    the memory it needs, extrapolated from the last two, is free. Running out of memory all the same ends the search,
    not the process. WorkError if not even one sequence fits.
    """
    device, net = state.dist.device, state.model.net
    before = peak(device)
    # the optimizers' moments will come on top
    moments = sum(2 * 4 * local_part(p).numel() for p in net.parameters())
    budget = MARGIN * free_memory(device) - moments
    sizes = sorted({min(2**k, len(rows)) for k in range(len(rows).bit_length() + 1)})
    taken: dict[int, int] = {}
    seconds: dict[int, float] = {}
    net.train()
    for number, size in enumerate(sizes):
        (too_large,) = state.dist.any(_expected(taken, size) > budget)
        if too_large:
            break
        found = _attempt(state, size)
        (failed,) = state.dist.any(found is None)
        if failed:
            break
        taken[size], seconds[size] = found[0] - before, found[1]
        figures = {"micro-batch": str(size), "tokens/s": f"{_rate(state, size, seconds):,.0f}"}
        yield Progress("fitting", number + 1, len(sizes), "sizes", figures)
    net.zero_grad(set_to_none=True)
    if not taken:
        raise WorkError(
            f"not even a micro-batch of 1 fits into the memory of {device}: take train.recompute=true, "
            "train.strategy=fsdp on more processes, or a smaller model"
        )
    best = _fastest({size: _rate(state, size, seconds) for size in seconds})
    best = state.dist.least(best)
    state.recipe = dataclasses.replace(state.recipe, train=dataclasses.replace(state.recipe.train, micro_batch=best))
    rate = _rate(state, best, seconds) * state.dist.world
    yield Note(
        f"train.micro_batch={best}: {rate:,.0f} tokens/s forward and backward with every position counted, "
        f"{taken[best] / 2**30:.1f} GiB beyond the start"
    )


def _expected(taken: dict[int, int], size: int) -> float:
    """Bytes that a micro-batch of `size` is expected to take: a line through the last two, doubled before there are."""
    if len(taken) < 2:
        return 2.0 * max(taken.values(), default=0)
    (a, low), (b, high) = list(taken.items())[-2:]
    return high + (high - low) / (b - a) * (size - b)


def _attempt(state: TrainState, size: int) -> tuple[int, float] | None:
    """(peak bytes, seconds) of a forward and backward pass with `size` sequences; None if memory ran out."""
    model, device = state.model, state.dist.device
    length, generator = model.length, torch.Generator().manual_seed(size)
    x0 = torch.randint(model.graph.tokens, (size, length), generator=generator).to(device)
    v = torch.full((size,), 1 - 1e-9, dtype=torch.float64, device=device)
    u = torch.rand(size, length, dtype=torch.float64, generator=generator).to(device)
    best = float("inf")
    begin_peak(device)
    try:
        for _ in range(2):
            began = _now(device)
            with state.dist.accumulate(state.loss, last=False):
                state.loss(x0, v, u).total.backward()
            best = min(best, _now(device) - began)
    except (torch.OutOfMemoryError, MemoryError) as error:
        _release(error, state)
        return None
    except RuntimeError as error:
        if "can't allocate memory" not in str(error):
            raise
        _release(error, state)
        return None
    return peak(device), best


def _release(error: BaseException, state: TrainState) -> None:
    """Free what the failed attempt holds."""
    error.__traceback__ = None
    state.model.net.zero_grad(set_to_none=True)
    if state.dist.device.type == "cuda":
        torch.cuda.empty_cache()


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def _rate(state: TrainState, size: int, seconds: dict[int, float]) -> float:
    return size * state.model.length / seconds[size]


def _fastest(rates: dict[int, float]) -> int:
    """The smallest size that no larger one beats by a margin worth its memory."""
    best = next(iter(rates))
    for size, rate in rates.items():
        if rate > WORTH * rates[best]:
            best = size
    return best
