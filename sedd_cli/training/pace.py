"""How long a recipe's training takes on this machine, from a few steps of it with random tokens."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import torch
from torch import nn

from sedd_cli.errors import out_of_memory
from sedd_cli.models.timing import now
from sedd_cli.recipe import Recipe
from sedd_cli.system.distributed import Dist, pick_device
from sedd_cli.system.memory import free_memory
from sedd_cli.training.state import TrainState, without_text
from sedd_cli.training.step import gradients

#: Seconds that a forward and backward pass must take to be extrapolated to a larger batch.
ENOUGH = 0.5
#: The share of the free memory that the estimate of the training may take.
MOST_MEMORY = 0.7


def training_seconds(recipe: Recipe, vocab_size: int, memory: float, device: str = "auto") -> float | None:
    """Expected seconds of all steps in one process, without compilation, validation and report.

    Args:
        recipe: A recipe that `check_recipe` accepts.
        vocab_size: N.
        memory: Expected bytes of the training.
        device: auto, cpu, cuda, cuda:N.

    Returns:
        None where the memory is too small to try.
    """
    chosen = pick_device(device)
    if memory > MOST_MEMORY * free_memory(chosen):
        return None
    try:
        return _measured(recipe, vocab_size, chosen)
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error):
            raise
        return None


def _measured(recipe: Recipe, vocab_size: int, device: torch.device) -> float:
    plain = dataclasses.replace(recipe.train, compile=False, start="random")
    begun = dataclasses.replace(recipe, train=plain, init_from=None)
    state = TrainState.create(begun, without_text(vocab_size), Dist(0, 1, device), anew=False)
    state.model.net.train()
    most, rows = min(plain.micro_batch or plain.batch, plain.batch), 1
    while True:
        state.recipe = dataclasses.replace(begun, train=dataclasses.replace(plain, batch=rows, micro_batch=None))
        tokens = torch.randint(vocab_size, (rows, recipe.model.length), generator=torch.Generator().manual_seed(rows))
        step = _seconds(lambda tokens=tokens: gradients(state, tokens, range(len(tokens))), device)
        if rows == most or step > ENOUGH:
            break
        rows = min(2 * rows, most)
    nn.utils.clip_grad_norm_(state.model.net.parameters(), plain.clip)
    return plain.steps * (step * plain.batch / rows + _seconds(state.update, device))


def _seconds(work: Callable[[], object], device: torch.device) -> float:
    """The shortest of three durations, or of fewer where they are long. The first calls prepare kernels and memory."""
    work()
    best = float("inf")
    for _ in range(3):
        began = now(device)
        work()
        best = min(best, now(device) - began)
        if best > 4 * ENOUGH:
            break
    return best
