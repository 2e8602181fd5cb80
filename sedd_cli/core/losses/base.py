"""The interface of a training objective, which gives a loss per sequence from clean tokens and uniforms."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from sedd_cli.core.graphs import Graph
from sedd_cli.core.registry import Registry
from sedd_cli.core.schedules import T_MIN
from sedd_cli.core.score import Loss, Parametrization, ScoreModel

OBJECTIVES = Registry("objective")


@dataclass(frozen=True)
class Objective(ABC):
    """Base of the training objectives. Fields are the recipe's options."""

    name: ClassVar[str]
    #: Whether the network's outputs are log-scores or logits of the clean token.
    parametrization: ClassVar[Parametrization] = "score"
    #: Whether a position sees only those before it, and the likelihood is exact.
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
    """An objective at times t ~ U(t_min, 1)."""

    t_min: float = T_MIN

    def __post_init__(self) -> None:
        if not 0 < self.t_min < 1:
            raise ValueError(f"t_min must lie in (0, 1), found {self.t_min}")

    def noise_at(self, model: ScoreModel, v: Tensor) -> tuple[Tensor, Tensor]:
        """(sigma, dsigma) at the times that v [B] places."""
        return model.schedule(self.t_min + (1 - self.t_min) * v)


def token_nats(z: Tensor, x0: Tensor, vocab_size: int) -> Tensor:
    """−log of the probability that softmax(z) over the tokens gives x0 [R], for z [R, S]: nats [R]."""
    return -z[:, :vocab_size].log_softmax(-1).gather(-1, x0[:, None])[:, 0]
