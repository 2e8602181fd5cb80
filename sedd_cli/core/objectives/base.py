"""What is minimised. An objective turns clean tokens and uniforms into a loss per sequence."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from sedd_cli.core.registry import Registry
from sedd_cli.core.score import Loss, ScoreModel

OBJECTIVES = Registry("objective")


@dataclass(frozen=True)
class Objective(ABC):
    """Fields are the recipe's options."""

    name: ClassVar[str]

    @abstractmethod
    def loss(self, model: ScoreModel, x0: Tensor, v: Tensor, u: Tensor) -> Loss:
        """The sum of the sequences' losses, differentiable, and each of them [B], in nats.

        x0 [B, L] clean tokens; v [B] and u [B, L] float64 uniforms for the noise level and the corruption.
        """
