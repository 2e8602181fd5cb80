"""Monotone cubic interpolation with its derivative and its inverse (Fritsch and Carlson 1980)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

#: Knots from which the slope at one of them is taken, and halvings of an interval for the inverse.
STENCIL, BISECTIONS = 5, 60


@dataclass(frozen=True, eq=False)
class Monotone:
    """A growing function through knots x, y [K] with slopes [K], float64. Beyond the ends it is linear."""

    x: Tensor
    y: Tensor
    slopes: Tensor

    @classmethod
    def through(cls, x: Tensor, y: Tensor) -> Monotone:
        """The function through growing knots x, y [K], K ≥ 5.

        Slopes are those of the polynomial through five neighbours, so that the error is O(h⁴); where that could make
        the function fall, they are limited to three times the smaller secant, which suffices for it to grow, and to a
        tenth of it from below, so that the inverse has a slope everywhere.
        """
        first = (torch.arange(len(x)) - STENCIL // 2).clamp(0, len(x) - STENCIL)
        near = first[:, None] + torch.arange(STENCIL)
        own = near == torch.arange(len(x))[:, None]
        # derivative of Lagrange's polynomial: Σ_j (w_j/w_i)/(x_i − x_j)·(y_j − y_i), w_j = 1/Π_k (x_j − x_k)
        apart = x[near][:, :, None] - x[near][:, None]
        weights = 1 / (apart + torch.eye(STENCIL, dtype=x.dtype)).prod(-1)
        steps = torch.where(own, 1.0, x[:, None] - x[near])
        terms = weights / weights[own][:, None] / steps * (y[near] - y[:, None])
        secants = y.diff() / x.diff()
        least = torch.minimum(torch.cat([secants[:1], secants]), torch.cat([secants, secants[-1:]]))
        return cls(x, y, terms.sum(-1).clamp(least / 10, 3 * least))

    def __call__(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(y, dy/dx) at x [...] float64."""
        x_at, y_at, slopes = (part.to(x.device) for part in (self.x, self.y, self.slopes))
        inside = x.clamp(x_at[0], x_at[-1])
        right = torch.searchsorted(x_at, inside.detach()).clamp(1, len(x_at) - 1)
        y, slope = _cubic(x_at, y_at, slopes, right, (inside - x_at[right - 1]) / (x_at[right] - x_at[right - 1]))
        return y + slope * (x - inside), slope

    def inverse(self, y: Tensor) -> Tensor:
        """The x at which the function is y, [...] float64."""
        x_at, y_at, slopes = (part.to(y.device) for part in (self.x, self.y, self.slopes))
        inside = y.clamp(y_at[0], y_at[-1])
        right = torch.searchsorted(y_at, inside.detach()).clamp(1, len(y_at) - 1)
        low, high = torch.zeros_like(inside), torch.ones_like(inside)
        for _ in range(BISECTIONS):
            middle = (low + high) / 2
            below = _cubic(x_at, y_at, slopes, right, middle)[0] < inside
            low, high = torch.where(below, middle, low), torch.where(below, high, middle)
        x = x_at[right - 1] + high * (x_at[right] - x_at[right - 1])
        # y − inside is 0 between the knots and carries the gradient there
        return x + (y - inside.detach()) / _cubic(x_at, y_at, slopes, right, high)[1]


def _cubic(x: Tensor, y: Tensor, slopes: Tensor, right: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
    """Hermite's cubic and its derivative at the share s in [0, 1] of the interval that ends at knot `right`."""
    width, rise = x[right] - x[right - 1], y[right] - y[right - 1]
    begin, end = slopes[right - 1] * width, slopes[right] * width
    bend, twist = 3 * rise - 2 * begin - end, begin + end - 2 * rise
    value = y[right - 1] + s * (begin + s * (bend + s * twist))
    return value, (begin + s * (2 * bend + 3 * s * twist)) / width
