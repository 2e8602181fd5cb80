"""One training step: the global batch's noise levels, noise and gradients, whoever computes which rows."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from sedd_cli.core.random import NOISE, TIME, Stream
from sedd_cli.recipe import Recipe
from sedd_cli.training.state import TrainState

#: Equal bins of t in which the loss is shown.
BINS = 5


@dataclass
class LossByTime:
    """Sums of losses (nats) and counts of sequences in bins of t, both float64 [BINS]; they add up."""

    nats: Tensor
    sequences: Tensor

    @classmethod
    def zero(cls, device: torch.device) -> LossByTime:
        return cls(*torch.zeros(2, BINS, dtype=torch.float64, device=device))

    def add(self, v: Tensor, loss: Tensor) -> None:
        """Take in sequences with loss [B] at noise levels placed by v [B] in (0, 1)."""
        bins = (v * BINS).long()
        self.nats.index_add_(0, bins, loss.double())
        self.sequences.index_add_(0, bins, torch.ones_like(v))

    def merge(self, other: LossByTime) -> None:
        """Take in another tally."""
        self.nats += other.nats
        self.sequences += other.sequences


def gradients(state: TrainState, batch: Tensor, rows: range) -> LossByTime:
    """Accumulate the gradient of the mean loss per sequence (algorithm 1) over the global batch.

    batch [R, L] holds this process's `rows` of it.
    """
    recipe, plan, device = state.recipe, state.recipe.train, state.dist.device
    state.model.net.zero_grad(set_to_none=True)
    tally = LossByTime.zero(device)
    parts = torch.arange(len(batch)).split(plan.micro_batch or len(batch))
    for part in parts:
        index = part + rows.start
        if recipe.model.dropout:
            # the only noise not named by a counter. Seeded by the step and the first row, masks are the same on
            # any number of processes with the same micro-batches, and in a resumed run
            torch.manual_seed(((recipe.seed * 1_000_003 + state.step) * 65_537 + int(index[0])) % 2**63)
        v = levels(recipe, state.step, index).to(device)
        u = Stream(recipe.seed, NOISE, index.to(device)).uniforms(state.step, recipe.model.length)[0]
        with state.dist.accumulate(state.loss, last=part is parts[-1]):
            loss = state.loss(batch[part].to(device, non_blocking=True), v, u)
            # gradients are averaged over processes, the loss over the global batch
            (loss.total * (state.dist.world / plan.batch)).backward()
        tally.add(v, loss.sequences)
    return tally


def levels(recipe: Recipe, step: int, index: Tensor) -> Tensor:
    """The uniforms in (0, 1), float64 [R], that place the noise level of the global batch's rows `index`."""
    batch = recipe.train.batch
    u = Stream(recipe.seed, TIME, index).uniform(step)
    if recipe.train.t_sampling == "uniform":
        return u
    # strata in a scattered order: neighbouring rows (one process, one micro-batch) get all levels, not one end
    stride = next(k for k in range(int(0.618 * batch) + 1, 2 * batch + 2) if math.gcd(k, batch) == 1)
    return (index * stride % batch + u) / batch
