"""The interface of a training objective, which gives a loss per sequence from clean tokens and uniforms."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from sedd_cli.core.fast.base import CrossEntropyTiles, TileLoss
from sedd_cli.core.fast.fused import losses, weighted_loss
from sedd_cli.core.fast.tiles import LinearHead
from sedd_cli.core.graphs import Graph
from sedd_cli.core.losses.weighting import BOUND, DYNAMIC, NAMES, check_dynamic, dynamic_factor, level_factor
from sedd_cli.core.registry import Registry
from sedd_cli.core.schedules import T_MIN, Schedule
from sedd_cli.core.score import Loss, Parametrization, ScoreModel
from sedd_cli.errors import not_one_of

OBJECTIVES = Registry("objective", __package__)
#: The largest power of t in a weight: with more, the weight at little noise would underflow.
MOST_POWER = 4.0
#: The largest power of 1/t in a density of t: with 1, it could not be drawn from.
MOST_IMPORTANCE = 0.9


@dataclass(frozen=True)
class Objective(ABC):
    """Base of the training objectives. Fields are the recipe's options."""

    name: ClassVar[str]
    #: Whether the network's outputs are log-scores or logits of the clean token.
    parametrization: ClassVar[Parametrization] = "score"
    #: Whether the network is causal (a position attends to earlier ones only), so that the likelihood is exact.
    causal: ClassVar[bool] = False
    #: Whether the graph must have a MASK.
    needs_mask: ClassVar[bool] = False
    #: Whether the loss that is logged is −log p, or a bound on it up to constants. A class does not inherit it.
    logs_bound: ClassVar[bool] = False
    #: How many independent corruptions of a sequence at its noise level the loss takes.
    corruptions: ClassVar[int] = 1

    def __init_subclass__(cls) -> None:
        cls.logs_bound = cls.__dict__.get("logs_bound", False)  # a loss made of another need not be a bound

    @property
    def learns_exponents(self) -> bool:
        """Whether it trains the exponents of a learnable graph."""
        return False

    @property
    def steps(self) -> int | None:
        """Of a model in discrete time: T, so that its own bound is that of T steps."""
        return None

    def check(self, graph: Graph) -> None:
        """ValueError where the objective is not defined for the graph."""
        if self.needs_mask:
            graph.check_masking(self.name)

    @property
    def direct(self) -> bool:
        """Whether gradients are those of the loss that is logged, with the weights of the likelihood bound."""
        return True

    @property
    def weights(self) -> str:
        """The options by which gradients are weighted, spelled as in a recipe."""
        return ""

    def placed(self, v: Tensor) -> tuple[Tensor, Tensor]:
        """Where in (0, 1) a uniform v [B] places the noise, and 1/density there, [B] each."""
        return v, torch.ones_like(v)

    def noise_level(self, graph: Graph, schedule: Schedule, v: Tensor) -> Tensor:
        """The total noise [B] by which the loss corrupts at uniforms v [B]."""
        return schedule(T_MIN + (1 - T_MIN) * self.placed(v)[0])[0]

    def active_share(self, graph: Graph, schedule: Schedule, v: Tensor) -> Tensor:
        """Expected fraction [B] of the positions whose scores the loss needs at uniforms v [B]."""
        return torch.ones_like(v) if self.causal else graph.active_share(self.noise_level(graph, schedule, v))

    @abstractmethod
    def loss(self, model: ScoreModel, x0: Tensor, v: Tensor, u: Tensor) -> Loss:
        """The sum of the sequences' losses, differentiable, and each of them [B], in nats.

        x0 [B, L] clean tokens; v [B] and u [B, K·L] float64 uniforms for the noise level and K `corruptions`.
        """


@dataclass(frozen=True)
class PositionWeights:
    """Weights that differ between the positions of a sequence.

    logged [B]: of the loss that is logged. factor [B, L]: what the gradients have on top of it.
    """

    logged: Tensor
    factor: Tensor


#: The weight of each sequence [B], or of each position.
Weight = Tensor | PositionWeights


@dataclass(frozen=True)
class ContinuousTime(Objective):
    """An objective at times t in (t_min, 1).

    Gradients are those of the loss at time t times a factor: weighting's (`losses.weighting`) times (1 + p)·t^p with
    p = weight_power. Losses at little noise, which few tokens with large weights estimate, then count less. The minimum
    is the same where the network can represent it; the loss that is logged has no such factor.

    weighting: bound (1), flat, min_snr (with weight_cap) or dynamic. importance: with q > 0, t is drawn with a density
    (1 − q)·t^(−q) and its loss is divided by it: more draws at little noise, where losses scatter most, for the same
    expectation; otherwise t is uniform.
    """

    t_min: float = T_MIN
    weight_power: float = 0.0
    weighting: str = BOUND
    weight_cap: float = 5.0
    importance: float = 0.0

    def __post_init__(self) -> None:
        if not 0 < self.t_min < 1:
            raise ValueError(f"t_min must lie in (0, 1), found {self.t_min}")
        if not 0 <= self.weight_power <= MOST_POWER:
            raise ValueError(f"weight_power must lie in [0, {MOST_POWER:g}], found {self.weight_power}")
        if self.weighting not in NAMES:
            raise ValueError(not_one_of("weighting", NAMES, self.weighting))
        if not 0 < self.weight_cap < math.inf:
            raise ValueError(f"weight_cap must be positive, found {self.weight_cap}")
        if not 0 <= self.importance <= MOST_IMPORTANCE:
            raise ValueError(f"importance must lie in [0, {MOST_IMPORTANCE:g}], found {self.importance}")

    @property
    def direct(self) -> bool:
        return self.weighting == BOUND and self.weight_power == 0

    @property
    def weights(self) -> str:
        power = f"weight_power={self.weight_power:g}" if self.weight_power else ""
        return ", ".join(part for part in (f"weighting={self.weighting}", power) if part)

    def check(self, graph: Graph) -> None:
        super().check(graph)
        if self.weighting == DYNAMIC:
            check_dynamic(graph)

    def placed(self, v: Tensor) -> tuple[Tensor, Tensor]:
        if self.importance == 0:
            return super().placed(v)
        power = 1 / (1 - self.importance)
        return v**power, power * v ** (power - 1)

    def noise_level(self, graph: Graph, schedule: Schedule, v: Tensor) -> Tensor:
        return schedule(self.t_min + (1 - self.t_min) * self.placed(v)[0])[0]

    @abstractmethod
    def weighted(self, model: ScoreModel, x: Tensor, sigma: Tensor, x0: Tensor, weight: Weight) -> Loss:
        """weight times the loss at sigma [B], per unit of sigma, of x [B, L]."""

    def loss(self, model: ScoreModel, x0: Tensor, v: Tensor, u: Tensor) -> Loss:
        place, spread = self.placed(v)
        t = self.t_min + (1 - self.t_min) * place  # [B]
        sigma, dsigma = model.schedule(t)
        x = model.graph.perturb(x0, sigma, u)  # [B, L]
        factor = (1 + self.weight_power) * t**self.weight_power
        if self.weighting == DYNAMIC:
            by_position = dynamic_factor(model.graph, sigma, dsigma, x, x0)
            return self.weighted(model, x, sigma, x0, PositionWeights(dsigma * spread, factor[:, None] * by_position))
        if self.weighting != BOUND:
            factor = factor * level_factor(self.weighting, sigma, dsigma, self.weight_cap)
        found = self.weighted(model, x, sigma, x0, dsigma * spread * factor)
        return Loss(found.total, found.sequences / factor.to(found.sequences.dtype))


def linear_head(model: ScoreModel) -> LinearHead | None:
    """The network's head, if it is linear: then a fused loss makes head and loss together."""
    return getattr(model.net, "readout", None)


def fused_loss(
    readout: LinearHead, loss: TileLoss, hidden: Tensor, place: tuple[Tensor, Tensor], weight: Weight
) -> Loss:
    """Head and loss of some rows of a batch, together.

    hidden [R, D] is the trunk's output at the rows, place their sequences [R] and their positions in them [R].
    """
    logged = weight if isinstance(weight, Tensor) else weight.logged
    of_rows = logged[place[0]] if isinstance(weight, Tensor) else logged[place[0]] * weight.factor[place]
    total, rows = weighted_loss(readout, loss, hidden, of_rows)
    return Loss(total, logged.to(rows.dtype) * rows.new_zeros(len(logged)).index_add_(0, place[0], rows))


def summed(found: Tensor, weight: Weight) -> Loss:
    """A weighted sum of losses [B]. Factors of positions are in the gradients of `found` already (`factor_of`)."""
    loss = (weight if isinstance(weight, Tensor) else weight.logged).to(found.dtype) * found
    return Loss(loss.sum(), loss.detach())


def factor_of(weight: Weight) -> Tensor | None:
    """The factors [B, L] of the gradients of positions, where there are some, for `ScoreModel.row_losses`."""
    return None if isinstance(weight, Tensor) else weight.factor


def sequence_cross_entropy(
    model: ScoreModel,
    x: Tensor,
    sigma: Tensor,
    x0: Tensor,
    where: Tensor | None = None,
    factor: Tensor | None = None,
) -> Tensor:
    """Σ of −log p(x0) over positions, the active ones or `where` [B, L], for outputs that are logits: nats [B].

    factor [B, L]: of the gradients (`ScoreModel.row_losses`).
    """
    if (readout := linear_head(model)) and not torch.is_grad_enabled():
        batch, position, hidden = model.hidden_rows(x, sigma, where)
        nats = losses(readout, CrossEntropyTiles(x0[batch, position], model.graph.vocab_size), hidden)
        return nats.new_zeros(len(x)).index_add_(0, batch, nats)
    vocab_size = model.graph.vocab_size
    return model.row_losses(x, sigma, x0, lambda z, batch, x, x0: token_nats(z, x0, vocab_size), where, factor)


def weighted_cross_entropy(
    model: ScoreModel, x: Tensor, sigma: Tensor, x0: Tensor, weight: Weight, where: Tensor | None = None
) -> Loss:
    """weight times `sequence_cross_entropy`, for training; fused where the head is linear."""
    if readout := linear_head(model):
        batch, position, hidden = model.hidden_rows(x, sigma, where)
        tiles = CrossEntropyTiles(x0[batch, position], model.graph.vocab_size)
        return fused_loss(readout, tiles, hidden, (batch, position), weight)
    return summed(sequence_cross_entropy(model, x, sigma, x0, where, factor_of(weight)), weight)


def token_nats(z: Tensor, x0: Tensor, vocab_size: int) -> Tensor:
    """−log of the probability that softmax(z) over the tokens gives x0 [R], for z [R, S]: nats [R]."""
    return -z[:, :vocab_size].log_softmax(-1).gather(-1, x0[:, None])[:, 0]
