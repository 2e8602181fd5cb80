"""Which micro-batch is fastest within the memory: measured, step by step, never beyond what is predicted to fit."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Generator

import torch

from sedd_cli.data.shards import Dataset
from sedd_cli.errors import WorkError
from sedd_cli.recipe import Recipe
from sedd_cli.recipe.assemble import make_graph, make_net
from sedd_cli.system.distributed import Dist
from sedd_cli.system.events import Event, Note, Progress
from sedd_cli.system.memory import begin_peak, free_memory, held, peak
from sedd_cli.training.state import LossModule, compile_as_asked, shards

#: Share of the free memory that a micro-batch may take.
MARGIN = 0.9
#: A larger micro-batch must be faster by this factor to be worth its memory.
WORTH = 1.03


def fit(recipe: Recipe, dataset: Dataset, dist: Dist) -> Generator[Event, None, Recipe]:
    """Returns the recipe with the micro_batch that is fastest and fits, the same on every process.

    Each process measures on a network of its own that is thrown away: nothing is exchanged, so memory that runs out
    here troubles no one. Sizes double. Each is timed on a batch in which every position counts, the worst case; the
    next is tried only if the memory it needs, extrapolated from the last two, is free. WorkError if not even one
    sequence fits.
    """
    device, rows = dist.device, len(dist.share(recipe.train.batch))
    module, parameters = _module(recipe, dataset, dist)
    before = held(device)
    # average and moments will come on top; where they are sharded, weights and gradients will be too
    budget = MARGIN * free_memory(device) - 12 * parameters / (dist.world if shards(recipe, parameters, dist) else 1)
    sizes = sorted({min(2**k, rows) for k in range(rows.bit_length() + 1)})
    taken: dict[int, int] = {}
    rates: dict[int, float] = {}
    for number, size in enumerate(sizes):
        if _expected(taken, size) > budget:
            break
        found = _attempt(module, recipe, size, device)
        if found is None or found[0] - before > budget:
            break
        taken[size], rates[size] = found[0] - before, size * recipe.model.length / found[1]
        figures = {"micro-batch": str(size), "tokens/s": f"{rates[size]:,.0f}"}
        yield Progress("fitting", number + 1, len(sizes), "sizes", figures)
    del module
    if device.type == "cuda":
        torch.cuda.empty_cache()
    best = dist.least(_fastest(rates) if rates else 0)
    if not best:
        raise WorkError(
            f"not even a micro-batch of 1 fits into the memory of {device}: take train.recompute=true, "
            "train.strategy=fsdp on more processes, or a smaller model"
        )
    yield Note(
        f"train.micro_batch={best}: {rates[best] * dist.world:,.0f} tokens/s forward and backward with every position "
        f"counted, {taken[best] / 2**30:.1f} GiB beyond the weights"
    )
    return with_micro_batch(recipe, best)


def with_micro_batch(recipe: Recipe, size: int | None) -> Recipe:
    """The recipe with another train.micro_batch."""
    return dataclasses.replace(recipe, train=dataclasses.replace(recipe.train, micro_batch=size))


def _module(recipe: Recipe, dataset: Dataset, dist: Dist) -> tuple[LossModule, int]:
    """The recipe's loss around a fresh network, and the number of its parameters."""
    graph = make_graph(recipe, dataset.tokenizer.vocab_size)
    net = make_net(recipe, graph, dist.device).train()
    net.recompute = recipe.train.recompute
    compile_as_asked(recipe, net, graph, dist)
    module = LossModule(net, graph, recipe.noise.make(), recipe.objective.make())
    return module, sum(p.numel() for p in net.parameters())


def _expected(taken: dict[int, int], size: int) -> float:
    """Bytes that a micro-batch of `size` is expected to take: a line through the last two, doubled before there are."""
    if len(taken) < 2:
        return 2.0 * max(taken.values(), default=0)
    (a, low), (b, high) = list(taken.items())[-2:]
    return high + (high - low) / (b - a) * (size - b)


def _attempt(module: LossModule, recipe: Recipe, size: int, device: torch.device) -> tuple[int, float] | None:
    """(peak bytes, seconds) of a forward and backward pass with `size` sequences; None if memory ran out."""
    length, generator = recipe.model.length, torch.Generator().manual_seed(size)
    tokens = module.graph.vocab_size
    x0 = torch.randint(tokens, (size, length), generator=generator).to(device)
    v = torch.full((size,), 1 - 1e-9, dtype=torch.float64, device=device)
    u = torch.rand(size, length, dtype=torch.float64, generator=generator).to(device)
    best = float("inf")
    begin_peak(device)
    try:
        for _ in range(2):
            began = _now(device)
            module(x0, v, u).total.backward()
            best = min(best, _now(device) - began)
    except (torch.OutOfMemoryError, MemoryError) as error:
        error.__traceback__ = None  # it holds the tensors
        return None
    except RuntimeError as error:
        if "can't allocate memory" not in str(error):
            raise
        error.__traceback__ = None
        return None
    finally:
        module.zero_grad(set_to_none=True)
    return peak(device), best


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def _fastest(rates: dict[int, float]) -> int:
    """The smallest size that no larger one beats by a margin worth its memory."""
    best = next(iter(rates))
    for size, rate in rates.items():
        if rate > WORTH * rates[best]:
            best = size
    return best
