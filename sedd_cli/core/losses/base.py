"""The interface of a training objective, which gives a loss per sequence from clean tokens and uniforms."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from sedd_cli.core.fast.base import CrossEntropyTiles, TileLoss
from sedd_cli.core.fast.fused import LinearHead, losses, weighted_loss
from sedd_cli.core.graphs import Graph
from sedd_cli.core.registry import Registry
from sedd_cli.core.schedules import T_MIN
from sedd_cli.core.score import Loss, Parametrization, ScoreModel

OBJECTIVES = Registry("objective", __package__)
#: The largest power of t in a weight: with more, the weight at little noise would underflow.
MOST_POWER = 4.0


@dataclass(frozen=True)
class Objective(ABC):
    """Base of the training objectives. Fields are the recipe's options."""

    name: ClassVar[str]
    #: Whether the network's outputs are log-scores or logits of the clean token.
    parametrization: ClassVar[Parametrization] = "score"
    #: Whether the network is causal (a position attends to earlier ones only), so that the likelihood is exact.
    causal: ClassVar[bool] = False
    #: Whether there has to be a MASK.
    needs_mask: ClassVar[bool] = False

    @property
    def steps(self) -> int | None:
        """Of a model in discrete time: T, so that its own bound is that of T steps."""
        return None

    def check(self, graph: Graph) -> None:
        """ValueError where the objective means nothing with the graph."""
        if self.needs_mask and not graph.masking:
            raise ValueError(
                f"{self.name} needs a graph with MASK from which tokens do not return, {graph.name} is none"
            )

    @abstractmethod
    def loss(self, model: ScoreModel, x0: Tensor, v: Tensor, u: Tensor) -> Loss:
        """The sum of the sequences' losses, differentiable, and each of them [B], in nats.

        x0 [B, L] clean tokens; v [B] and u [B, L] float64 uniforms for the noise level and the corruption.
        """


@dataclass(frozen=True)
class ContinuousTime(Objective):
    """An objective at times t ~ U(t_min, 1).

    weight_power: with p > 0, gradients are those of (1 + p)·t^p times the loss at time t. Losses at little noise, which
    few tokens with large weights estimate, then count less. The minimum is the same where the network can represent it;
    the loss that is logged has no such factor.
    """

    t_min: float = T_MIN
    weight_power: float = 0.0

    def __post_init__(self) -> None:
        if not 0 < self.t_min < 1:
            raise ValueError(f"t_min must lie in (0, 1), found {self.t_min}")
        if not 0 <= self.weight_power <= MOST_POWER:
            raise ValueError(f"weight_power must lie in [0, {MOST_POWER:g}], found {self.weight_power}")

    @abstractmethod
    def weighted(self, model: ScoreModel, x: Tensor, sigma: Tensor, x0: Tensor, weight: Tensor) -> Loss:
        """weight [B] times the loss at sigma [B], per unit of sigma, of x [B, L]."""

    def loss(self, model: ScoreModel, x0: Tensor, v: Tensor, u: Tensor) -> Loss:
        t = self.t_min + (1 - self.t_min) * v  # [B]
        sigma, dsigma = model.schedule(t)
        factor = (1 + self.weight_power) * t**self.weight_power
        x = model.graph.perturb(x0, sigma, u)  # [B, L]
        found = self.weighted(model, x, sigma, x0, dsigma * factor)
        return Loss(found.total, found.sequences / factor.to(found.sequences.dtype))


def linear_head(model: ScoreModel) -> LinearHead | None:
    """The network's head, if it is linear: then a fused loss makes head and loss together."""
    return getattr(model.net, "readout", None)


def fused_loss(readout: LinearHead, loss: TileLoss, hidden: Tensor, batch: Tensor, weight: Tensor) -> Loss:
    """Head and loss of some rows of a batch, together.

    hidden [R, D] is the trunk's output at the rows, batch [R] their sequences, weight [B] that of a sequence.
    """
    total, rows = weighted_loss(readout, loss, hidden, weight[batch])
    return Loss(total, weight.to(rows.dtype) * rows.new_zeros(len(weight)).index_add_(0, batch, rows))


def sequence_cross_entropy(
    model: ScoreModel, x: Tensor, sigma: Tensor, x0: Tensor, where: Tensor | None = None
) -> Tensor:
    """Σ of −log p(x0) over positions, the active ones or `where` [B, L], for outputs that are logits: nats [B]."""
    if (readout := linear_head(model)) and not torch.is_grad_enabled():
        batch, position, hidden = model.hidden_rows(x, sigma, where)
        nats = losses(readout, CrossEntropyTiles(x0[batch, position], model.graph.vocab_size), hidden)
        return nats.new_zeros(len(x)).index_add_(0, batch, nats)
    vocab_size = model.graph.vocab_size
    return model.row_losses(x, sigma, x0, lambda z, batch, x, x0: token_nats(z, x0, vocab_size), where)


def weighted_cross_entropy(
    model: ScoreModel, x: Tensor, sigma: Tensor, x0: Tensor, weight: Tensor, where: Tensor | None = None
) -> Loss:
    """weight [B] times `sequence_cross_entropy`, for training; fused where the head is linear."""
    if readout := linear_head(model):
        batch, position, hidden = model.hidden_rows(x, sigma, where)
        tiles = CrossEntropyTiles(x0[batch, position], model.graph.vocab_size)
        return fused_loss(readout, tiles, hidden, batch, weight)
    nats = sequence_cross_entropy(model, x, sigma, x0, where)
    loss = weight.to(nats.dtype) * nats
    return Loss(loss.sum(), loss.detach())


def token_nats(z: Tensor, x0: Tensor, vocab_size: int) -> Tensor:
    """−log of the probability that softmax(z) over the tokens gives x0 [R], for z [R, S]: nats [R]."""
    return -z[:, :vocab_size].log_softmax(-1).gather(-1, x0[:, None])[:, 0]
