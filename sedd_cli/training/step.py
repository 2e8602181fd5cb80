"""The gradients of one training step.

Noise levels and noise of a row depend on the seed, the step, its place in the global batch and the size of that batch,
not on the number of processes or micro-batches.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from sedd_cli.core.random import NOISE, TIME, Stream
from sedd_cli.recipe import Recipe
from sedd_cli.training.state import TrainState

#: Devices on which the noise of a step is drawn during the step before.
DRAWN_AHEAD = {"cuda"}
#: Equal bins of t in which the loss is shown.
BINS = 5


@dataclass
class LossByTime:
    """Sums of losses in nats and counts of sequences in equal bins of t, both float64 [BINS]."""

    nats: Tensor
    sequences: Tensor

    @classmethod
    def zero(cls, device: torch.device) -> LossByTime:
        return cls(*torch.zeros(2, BINS, dtype=torch.float64, device=device))

    def add(self, place: Tensor, loss: Tensor, spread: Tensor | None = None) -> None:
        """Add sequences with loss [B] at noise levels in places [B] of (0, 1), drawn with density 1/spread [B] (1)."""
        bins = (place * BINS).long().clamp(max=BINS - 1)
        self.nats.index_add_(0, bins, loss.double())
        self.sequences.index_add_(0, bins, torch.ones_like(place) if spread is None else spread)

    def merge(self, other: LossByTime) -> None:
        """Add the sums and counts of another one."""
        self.nats += other.nats
        self.sequences += other.sequences


def gradients(state: TrainState, batch: Tensor, rows: range) -> LossByTime:
    """Accumulate the gradient of the mean loss per sequence over the global batch (algorithm 1).

    Args:
        state: Gradients are left in its network's parameters.
        batch: This process's rows of the global batch, int64 [R, L].
        rows: Their places in the global batch.
    """
    recipe, config, device = state.recipe, state.recipe.train, state.dist.device
    objective = state.model.objective
    state.model.net.zero_grad(set_to_none=True)
    losses = LossByTime.zero(device)
    size = config.micro_batch or len(batch)
    # slices of the batch: a copy would not be in page-locked memory, and the host would wait for it
    parts = dict(zip(range(rows.start, rows.stop, size), batch.split(size), strict=True))
    for first, x0 in parts.items():
        if recipe.model.dropout:
            # dropout is the only noise without a counter-based generator: seeding by step and first row gives the
            # same masks on any number of processes with the same micro-batches, and in a resumed run
            torch.manual_seed(((recipe.seed * 1_000_003 + state.step) * 65_537 + first) % 2**63)
        key = state.step, config.batch, first, len(x0)
        v, u = state.drawn.pop(key, None) or _noise(recipe, device, key)
        with state.dist.accumulate(state.loss, last=first + len(x0) == rows.stop):
            loss = state.loss(x0.to(device, non_blocking=True), v, u)
            # gradients are averaged over processes, the loss over the global batch
            (loss.total * (state.dist.world / config.batch)).backward()
        place, spread = objective.placed(v)
        losses.add(place, loss.sequences, spread)
    # a GPU is still busy: what the next step needs is queued behind, not waited for at its beginning
    keys = [(state.step + 1, config.batch, first, len(x0)) for first, x0 in parts.items()]
    state.drawn = {key: _noise(recipe, device, key) for key in keys} if device.type in DRAWN_AHEAD else {}
    return losses


def _noise(recipe: Recipe, device: torch.device, key: tuple[int, int, int, int]) -> tuple[Tensor, Tensor]:
    """Uniforms for the noise levels [R] and the noise [R, K·L] of (step, batch, first row, R rows), on the device."""
    step, _, first, rows = key
    v = time_uniforms(recipe, step, torch.arange(first, first + rows))
    index = torch.arange(first, first + rows, device=device)
    width = recipe.objective.make().corruptions * recipe.model.length
    u = Stream(recipe.seed, NOISE, index).uniforms(step, width)[0]
    return v.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else v.to(device), u


def time_uniforms(recipe: Recipe, step: int, index: Tensor) -> Tensor:
    """Uniforms in (0, 1), float64 [R], that place the noise levels of the rows `index` [R] of the global batch."""
    batch = recipe.train.batch
    u = Stream(recipe.seed, TIME, index).uniform(step)
    if recipe.train.t_sampling == "uniform":
        return u
    # strata in a scattered order, so that neighbouring rows (one process, one micro-batch) cover all levels
    stride = next(k for k in range(int(0.618 * batch) + 1, 2 * batch + 2) if math.gcd(k, batch) == 1)
    return (index * stride % batch + u) / batch
