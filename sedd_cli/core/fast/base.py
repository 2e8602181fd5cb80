"""What a graph needs for fused losses and for thinned sampling, in closed form and in float32 where that suffices.

The plain forms stand in `core.losses` and `core.samplers`; tests hold these equal to them. A graph without kernels is
trained and sampled by the plain forms.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch
from torch import Tensor

from sedd_cli.core.graphs import Graph, Transition

G = TypeVar("G", bound=Graph)


@dataclass(frozen=True)
class Targets:
    """What stands at some rows and what it should be: x, x0 [R] int64 and sigma [R] float64."""

    x: Tensor
    x0: Tensor
    sigma: Tensor

    def __getitem__(self, rows: slice | Tensor) -> Targets:
        return Targets(self.x[rows], self.x0[rows], self.sigma[rows])


@dataclass(frozen=True)
class Kernels(ABC, Generic[G]):
    """Closed forms of one graph. x [R] are active positions, log_score [R, S], sigma, step and delta_sigma [R]."""

    graph: G

    # -- losses ------------------------------------------------------------------------------------

    @abstractmethod
    def score_entropy(self, log_score: Tensor, sigma: Tensor, x: Tensor, x0: Tensor) -> Tensor:
        """`losses.score_entropy.score_entropy`, [...], for x of any shape."""

    def score_entropy_of(self, z: Tensor, sigma: Tensor, x: Tensor, x0: Tensor) -> Tensor:
        """Score entropy of the network output z [..., S]; a graph may skip scores it does not need."""
        return self.score_entropy(self.graph.log_score(z, sigma, x), sigma, x, x0)

    @abstractmethod
    def loss_tile(self, z: Tensor, start: int, targets: Targets) -> Tensor:
        """The part of some columns in the score entropy, [R], and its gradient, which overwrites z.

        z [R, C], finite, holds the network's outputs for tokens start … start + C − 1 (never MASK). Both come without
        the factor of their row, `loss_factor`: summed over all tiles, parts · factor are the loss and z · factor is its
        gradient.
        """

    @abstractmethod
    def loss_factor(self, targets: Targets) -> Tensor:
        """What multiplies a row's tiles, float64 [R]."""

    # -- transitions -------------------------------------------------------------------------------

    @abstractmethod
    def euler(self, log_score: Tensor, x: Tensor, step: Tensor) -> Transition:
        """`samplers.euler.euler_step`."""

    @abstractmethod
    def tweedie(self, log_score: Tensor, x: Tensor, delta_sigma: Tensor) -> Transition:
        """`samplers.tweedie.tweedie_step`."""

    @abstractmethod
    def correct(self, log_score: Tensor, x: Tensor, step: Tensor) -> Transition:
        """`samplers.corrector.corrector_step`."""

    def denoise(self, log_score: Tensor, x: Tensor, sigma: Tensor) -> Transition:
        """`samplers.denoise.denoise_step`."""
        return self.tweedie(log_score, x, sigma)

    @abstractmethod
    def decode(self, log_score: Tensor, x: Tensor, sigma: Tensor) -> Transition:
        """`samplers.denoise.decode_step`."""

    # -- bounds on the probability of moving, from total [R] ≥ Σ_y s_y over the tokens, float64 [R] --

    @abstractmethod
    def euler_bound(self, total: Tensor, x: Tensor, step: Tensor) -> Tensor:
        """At least `euler`'s probability of moving."""

    @abstractmethod
    def tweedie_bound(self, total: Tensor, x: Tensor, delta_sigma: Tensor) -> Tensor:
        """At least `tweedie`'s probability of moving."""

    @abstractmethod
    def correct_bound(self, total: Tensor, x: Tensor, step: Tensor) -> Tensor:
        """At least `correct`'s probability of moving."""

    def denoise_bound(self, total: Tensor, x: Tensor, sigma: Tensor) -> Tensor:
        """At least `denoise`'s probability of moving."""
        return self.tweedie_bound(total, x, sigma)

    @abstractmethod
    def decode_bound(self, total: Tensor, x: Tensor, sigma: Tensor) -> Tensor:
        """At least `decode`'s probability of moving."""

    def total_of(self, log_score: Tensor) -> Tensor:
        """Σ_y s_y over the tokens, float64 [R]."""
        return log_score[..., : self.graph.vocab_size].exp().sum(-1, dtype=torch.float64)

    def assumed_total(self, sigma: Tensor) -> Tensor | None:
        """What Σ_y s_y is assumed to stay below before scores are known, [...]; None where nothing is known."""
        return None

    @abstractmethod
    def mean_total(self, sigma: Tensor) -> Tensor:
        """What Σ_y s_y of `Graph.mean_score` never exceeds, float32 rounding included, [...]."""


def in_tile(token: Tensor, z: Tensor, start: int) -> tuple[Tensor, Tensor]:
    """Whether token [R] is one of start … start + C − 1, columns of z [R, C], and the column, clamped: both [R, 1].

    Nothing here depends on a value, so a GPU need not be waited for.
    """
    column = token[:, None] - start
    inside = (column >= 0) & (column < z.shape[-1])
    return inside, column.clamp(0, z.shape[-1] - 1)
