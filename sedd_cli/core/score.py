"""A network, a graph and a noise schedule together make a score."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from sedd_cli.core.fast.fused import Targets, losses, weighted_loss
from sedd_cli.core.graphs import Graph
from sedd_cli.core.schedules import Schedule

#: Elements of one block of rows × states that a pass over the vocabulary may hold at once.
ROW_BLOCK = 2**23


class Network(Protocol):
    """What the mathematics asks of a network: a trunk and a head, kept apart."""

    def hidden(self, x: Tensor, sigma: Tensor) -> Tensor:
        """x [B, L], sigma [B] → [B, L, D]."""

    def head(self, hidden: Tensor) -> Tensor:
        """[..., D] → z [..., S], float32 or better."""


#: z [R, S], the rows' sequences [R], x [R], x0 [R] → [R].
RowLoss = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


class Loss(NamedTuple):
    """A weighted sum of losses, differentiable, and the weighted loss of each sequence [B], for the record."""

    total: Tensor
    sequences: Tensor


@dataclass(frozen=True)
class ScoreModel:
    """Scores of noisy sequences, at every position or only where they are needed."""

    net: Network
    graph: Graph
    schedule: Schedule
    #: What the network is told lies within this range, whatever the true sigma; None: told the truth.
    sigma_range: tuple[float, float] | None = None
    #: The network's outputs are logits of the clean token (mean parametrisation); on the absorbing graph that is as if
    #: its scores' normaliser e^m were set to 1.
    mean: bool = False
    #: T of a model in discrete time, None of any other.
    steps: int | None = None

    @property
    def block(self) -> int:
        """Rows of scores held at once."""
        size = max(1, ROW_BLOCK // self.graph.states)
        return size - size % 64 if size > 64 else size  # whole tiles of a matrix product

    def hidden(self, x: Tensor, sigma: Tensor) -> Tensor:
        """The trunk's output [B, L, D]."""
        return self.net.hidden(x, sigma if self.sigma_range is None else sigma.clamp(*self.sigma_range))

    def log_score(self, x: Tensor, sigma: Tensor) -> Tensor:
        """log s(x, sigma) [B, L, S] for x [B, L], sigma [B]: the plain form, all positions at once."""
        return self.log_score_of(self.net.head(self.hidden(x, sigma)), sigma, x)

    def rows(self, x: Tensor, sigma: Tensor) -> Iterator[Rows]:
        """Network outputs at the positions whose score matters, as blocks of rows [R, S] small enough to hold.

        Blocks come in the order of the positions. A batch without an active position yields one empty block, so
        that every parameter has a gradient, of zero.
        """
        hidden = self.hidden(x, sigma)
        batch, position = self.graph.active(x).nonzero(as_tuple=True)
        for b, i in zip(batch.split(self.block), position.split(self.block), strict=True):
            yield Rows(b, i, x[b, i], sigma[b], self.net.head(hidden[b, i]))

    def scored_rows(self, x: Tensor, sigma: Tensor) -> Iterator[tuple[Rows, Tensor]]:
        """`rows`, each with its log_score [R, S]."""
        for rows in self.rows(x, sigma):
            yield rows, self.log_score_of(rows.z, rows.sigma, rows.x)

    def log_score_of(self, z: Tensor, sigma: Tensor, x: Tensor) -> Tensor:
        """log_score [R, S] of network outputs z [R, S] at positions x [R] under sigma [R]."""
        return (self.graph.mean_score if self.mean else self.graph.log_score)(z, sigma, x)

    def assumed_total(self, sigma: Tensor) -> Tensor | None:
        """What Σ_y s_y stays below, as far as is known before the network is asked; [...], as sigma."""
        return self.graph.mean_total(sigma) if self.mean else self.graph.assumed_total(sigma)

    def totals(self, hidden: Tensor, sigma: Tensor, x: Tensor) -> Tensor:
        """Σ_y s_y over the tokens [R], for hidden states [R, D] at positions x [R]: one pass over the vocabulary."""
        found = [
            self.graph.total_of(self.log_score_of(self.net.head(h), sigma.expand(len(h)), at))
            for h, at in zip(hidden.split(self.block), x.split(self.block), strict=True)
        ]
        return torch.cat(found) if found else sigma.new_zeros(0, dtype=torch.float64)

    def score_entropy(self, x: Tensor, sigma: Tensor, x0: Tensor) -> Tensor:
        """Score entropy per sequence [B] without σ̄′, in nats per unit of sigma; the head runs on active rows only.

        Where no gradient is asked for and the head is linear, its outputs are never held (`core.fused`).
        """
        if self._fused and not torch.is_grad_enabled():
            batch, hidden, targets = self._targets(x, sigma, x0)
            loss = losses(self.net.readout, self.graph, hidden, targets)
            return loss.new_zeros(len(x)).index_add_(0, batch, loss)
        return self.row_losses(x, sigma, x0, self._row_entropy(sigma))

    def weighted_score_entropy(self, x: Tensor, sigma: Tensor, x0: Tensor, weight: Tensor) -> Loss:
        """weight [B] times the score entropy of each sequence, for training; fused where the head is linear."""
        if not self._fused:
            weighted = weight * self.row_losses(x, sigma, x0, self._row_entropy(sigma))
            return Loss(weighted.sum(), weighted.detach())
        batch, hidden, targets = self._targets(x, sigma, x0)
        total, loss = weighted_loss(self.net.readout, self.graph, hidden, targets, weight[batch])
        return Loss(total, weight.to(loss.dtype) * loss.new_zeros(len(x)).index_add_(0, batch, loss))

    def _targets(self, x: Tensor, sigma: Tensor, x0: Tensor) -> tuple[Tensor, Tensor, Targets]:
        """The active positions: their sequences [R], the trunk's outputs there [R, D], and what they should become."""
        hidden = self.hidden(x, sigma)
        batch, position = self.graph.active(x).nonzero(as_tuple=True)
        here = batch, position
        return batch, hidden[here], Targets(x[here], x0[here], sigma[batch].double())

    def _row_entropy(self, sigma: Tensor) -> RowLoss:
        def entropy(z: Tensor, batch: Tensor, x: Tensor, x0: Tensor) -> Tensor:
            if self.mean:
                return self.graph.score_entropy(self.log_score_of(z, sigma[batch], x), sigma[batch], x, x0)
            return self.graph.score_entropy_from(z, sigma[batch], x, x0)

        return entropy

    @property
    def _fused(self) -> bool:
        """Whether the loss is elementwise in the outputs of a linear head."""
        return hasattr(self.net, "readout") and not self.mean

    def row_losses(self, x: Tensor, sigma: Tensor, x0: Tensor, loss_of: RowLoss, where: Tensor | None = None) -> Tensor:
        """Σ over positions, the active ones or `where` [B, L], of loss_of(z [R, S], batch [R], x [R], x0 [R]) → [R],
        per sequence [B].

        Head outputs are made block by block, and, where a gradient is asked for, once more in the backward pass, so
        that they need not be held.
        """
        hidden = self.hidden(x, sigma)
        batch, position = (self.graph.active(x) if where is None else where).nonzero(as_tuple=True)

        def block(hidden: Tensor, b: Tensor, i: Tensor) -> Tensor:
            return loss_of(self.net.head(hidden[b, i]), b, x[b, i], x0[b, i])

        total = torch.zeros(len(x), dtype=torch.float32, device=x.device)
        for b, i in zip(batch.split(self.block), position.split(self.block), strict=True):
            if torch.is_grad_enabled() and len(batch) > self.block:
                loss = checkpoint(block, hidden, b, i, use_reentrant=False)
            else:
                loss = block(hidden, b, i)
            total = total.to(loss.dtype).index_add(0, b, loss)
        return total


@dataclass(frozen=True)
class Rows:
    """Some positions of a batch: batch [R] and position [R] index them, x [R] stands there under noise sigma [R].

    z [R, S] is the network's output.
    """

    batch: Tensor
    position: Tensor
    x: Tensor
    sigma: Tensor
    z: Tensor
