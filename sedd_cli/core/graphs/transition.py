"""The distribution of a position's next state, and shapes that graphs and samplers share."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Transition:
    """The distribution of a position's next state.

    Attributes:
        move_probability: probability of moving to another state [...], float64.
        weights: unnormalised distribution of the state it moves to [..., S], 0 at the current state.
    """

    move_probability: Tensor
    weights: Tensor

    @classmethod
    def of_rates(cls, rates: Tensor, step: Tensor) -> Transition:
        """A first-order step of length `step` [...] along rates [..., S], which are 0 at the current state."""
        total = rates.sum(-1, dtype=torch.float64)
        return cls((per_position(step.double(), total) * total).clamp(max=1.0), rates)

    @classmethod
    def of_masses(cls, masses: Tensor, x: Tensor) -> Transition:
        """Masses [..., S] of all states, the current one x [...] among them; negative ones are set to 0.

        Where none is positive the position stays.
        """
        masses = masses.clamp(min=0.0)
        weights = masses.scatter(-1, x[..., None], 0.0)
        moved = weights.sum(-1, dtype=torch.float64)
        total = moved + masses.gather(-1, x[..., None])[..., 0]
        return cls(moved / torch.where(total > 0, total, 1.0), weights)


def per_position(value: Tensor, x: Tensor) -> Tensor:
    """A value per sequence [B] (or per position) in a shape that broadcasts against x [B, ...]."""
    return value.reshape(value.shape + (1,) * (x.dim() - value.dim()))


def zero_at(values: Tensor, x: Tensor) -> Tensor:
    """values [..., S] with the entry of the current state x [...] set to 0; the gradient there is cut."""
    return values.scatter(-1, x[..., None], 0.0)
