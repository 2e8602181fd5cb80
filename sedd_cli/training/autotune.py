"""Choose the fastest micro-batch that fits into memory, by measuring."""

from __future__ import annotations

import dataclasses
from collections.abc import Generator
from contextlib import nullcontext

import torch

from sedd_cli.data.shards import Dataset
from sedd_cli.errors import WorkError, out_of_memory
from sedd_cli.models.timing import now
from sedd_cli.recipe import Recipe
from sedd_cli.recipe.assemble import make_graph, make_net
from sedd_cli.system.distributed import Dist
from sedd_cli.system.events import Event, Note, Progress, Warn
from sedd_cli.system.memory import begin_peak, free_memory, peak, used_memory
from sedd_cli.training.state import LossModule, compile_if_wanted, use_sharding

#: Fraction of the free memory that a micro-batch may take.
MARGIN = 0.9
#: A larger micro-batch must be faster by this factor to justify its memory.
MIN_SPEEDUP = 1.03


def autotune(recipe: Recipe, dataset: Dataset, dist: Dist) -> Generator[Event, None, Recipe]:
    """Measure micro-batches of doubling size and choose the fastest, the same on every process.

    Each process measures a temporary network and exchanges nothing until the end, so running out of memory on one
    process does not block the others. Each size is timed on a batch in which every position counts, the worst case.
    The next size is tried only if its memory, extrapolated from the last two sizes, is free.

    Returns:
        The recipe with train.micro_batch set.

    Raises:
        WorkError: Not even one sequence fits.
    """
    device, rows = dist.device, len(dist.share(recipe.train.batch))
    module, parameters, notice = _module(recipe, dataset, dist)
    if notice:
        yield Warn(notice)
    before = used_memory(device)
    # EMA and optimizer moments come later; where they are sharded, weights and gradients are sharded too
    budget = MARGIN * free_memory(device) - 12 * parameters / (
        dist.world if use_sharding(recipe, parameters, dist) else 1
    )
    sizes = sorted({min(2**k, rows) for k in range(rows.bit_length() + 1)})
    memory: dict[int, int] = {}
    rates: dict[int, float] = {}
    for number, size in enumerate(sizes):
        if _expected(memory, size) > budget:
            break
        with torch._dynamo.config.patch(automatic_dynamic_shapes=False) if module.net.compiled else nullcontext():
            measured = _attempt(module, recipe, size, device)  # a size that is compiled is so by itself, as in training
        if measured is None or measured[0] - before > budget:
            break
        memory[size], rates[size] = measured[0] - before, size * recipe.model.length / measured[1]
        live = {"micro-batch": str(size), "tokens/s": f"{rates[size]:,.0f}"}
        yield Progress("measuring micro-batches", number + 1, len(sizes), "sizes", live)
    if module.net.compiled:
        torch.compiler.reset()  # the sizes tried would make that of the training one of many, in slower kernels
    del module
    if device.type == "cuda":
        torch.cuda.empty_cache()
    best = dist.least(_fastest(rates) if rates else 0)
    if not best:
        raise WorkError(
            f"not even a micro-batch of 1 fits into the memory of {device}: set train.recompute=true, use "
            "train.strategy=fsdp on more processes, or choose a smaller model"
        )
    yield Note(
        f"train.micro_batch={best}: {rates[best] * dist.world:,.0f} tokens/s forward and backward with all positions "
        f"active, {memory[best] / 2**30:.1f} GiB beyond the weights"
    )
    return with_micro_batch(recipe, best)


def with_micro_batch(recipe: Recipe, size: int | None) -> Recipe:
    """A copy of the recipe with another train.micro_batch."""
    return dataclasses.replace(recipe, train=dataclasses.replace(recipe.train, micro_batch=size))


def _module(recipe: Recipe, dataset: Dataset, dist: Dist) -> tuple[LossModule, int, str]:
    """The recipe's loss around a new network, its number of parameters, and a warning if compiling failed."""
    graph = make_graph(recipe, dataset.tokenizer.vocab_size)
    net = make_net(recipe, graph, dist.device).train()
    net.recompute = recipe.train.recompute
    # one row: a trial on the whole share of the batch may not fit
    _, notice = compile_if_wanted(with_micro_batch(recipe, 1), net, graph, dist)
    module = LossModule(net, graph, recipe.noise.make(), recipe.objective.make())
    return module, sum(p.numel() for p in net.parameters()), notice


def _expected(memory: dict[int, int], size: int) -> float:
    """Expected bytes for `size` sequences: a line through the last two measurements, or twice the only one."""
    if len(memory) < 2:
        return 2.0 * max(memory.values(), default=0)
    (a, low), (b, high) = list(memory.items())[-2:]
    return high + (high - low) / (b - a) * (size - b)


def _attempt(module: LossModule, recipe: Recipe, size: int, device: torch.device) -> tuple[int, float] | None:
    """Peak bytes and seconds of one forward and backward pass; None if memory ran out."""
    length, generator = recipe.model.length, torch.Generator().manual_seed(size)
    tokens = module.graph.vocab_size
    x0 = torch.randint(tokens, (size, length), generator=generator).to(device)
    v = torch.full((size,), 1 - 1e-9, dtype=torch.float64, device=device)
    width = recipe.objective.make().corruptions * length
    u = torch.rand(size, width, dtype=torch.float64, generator=generator).to(device)
    best = float("inf")
    begin_peak(device)
    try:
        for _ in range(2):
            began = now(device)
            module(x0, v, u).total.backward()
            best = min(best, now(device) - began)
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error):
            raise
        error.__traceback__ = None  # the traceback holds the tensors
        return None
    finally:
        module.zero_grad(set_to_none=True)
    return peak(device), best


def _fastest(rates: dict[int, float]) -> int:
    """The smallest size that no larger one beats by MIN_SPEEDUP."""
    best = next(iter(rates))
    for size, rate in rates.items():
        if rate > MIN_SPEEDUP * rates[best]:
            best = size
    return best
