"""What a graph needs for fused losses and for thinned sampling, in closed form and in float32 where that suffices.

For a graph that has them, these run in training, bounds and sampling instead of the formulas for any graph in
`core.losses` and `core.samplers`. Tests compare the two. A graph without kernels uses the formulas.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, TypeVar

import torch
from torch import Tensor

from sedd_cli.core.graphs import Graph, Transition

G = TypeVar("G", bound=Graph)


@dataclass(frozen=True)
class Targets:
    """Noisy token x and clean token x0 of some rows (positions), int64 [R], and the total noise sigma, float64 [R]."""

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
    def loss_tile(self, z: Tensor, start: int | Tensor, targets: Targets, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """The share of some columns in the score entropy, [R], and its gradient [R, C], rounded to `dtype` at the end.

        z [R, C], finite, holds the network's outputs for tokens start … start + C − 1 (never MASK); it is overwritten.
        Both come without the weight of their row, `row_weight`: summed over all tiles, parts · weight are the loss and
        gradients · weight its gradient.
        """

    @abstractmethod
    def neutral_output(self, targets: Targets) -> Tensor | float:
        """Outputs whose loss and gradient are 0, [R, 1] or one for all: for columns that pad the vocabulary."""

    @abstractmethod
    def row_weight(self, targets: Targets) -> Tensor:
        """The weight of each row, by which its tiles are multiplied, float64 [R]."""

    @abstractmethod
    def log_unit(self, targets: Targets, dtype: torch.dtype) -> Tensor | float:
        """log A, [R, 1] or one for all: e^z/A are the scores in units of a row, those of `true_ratios`."""

    @abstractmethod
    def true_ratios(self, targets: Targets) -> tuple[Tensor, Tensor]:
        """p(y|x0)/p(x|x0) of a token y that is neither x nor x0, and of x0, in units of the row: float64 [R] each."""

    @abstractmethod
    def squared_error_weight(self, targets: Targets) -> Tensor:
        """Q(x, y) times the square of the row's unit, the same for every token y ≠ x: float64 [R]."""

    def posterior_kl_share(self, sigma_s: Tensor, sigma_t: Tensor) -> Tensor | None:
        """`Graph.posterior_kl` as a multiple of the cross-entropy at active positions, [B]; None where it is none."""
        return None

    def posterior_kl_tiles(
        self, sigma_s: Tensor, sigma_t: Tensor, x: Tensor, x0: Tensor, cross_entropy: float
    ) -> TileLoss | None:
        """`Graph.posterior_kl` of rows, plus that much cross-entropy, as a fused loss; None where there is none.

        All tensors are [R].
        """
        return None

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
        """`samplers.denoise.denoise_step`, the Tweedie step to no noise."""
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
        """The largest Σ_y s_y that thinning assumes before scores are computed, [...]; None: it has to compute them."""
        return None

    @abstractmethod
    def mean_total(self, sigma: Tensor) -> Tensor:
        """The largest possible Σ_y s_y of `Graph.mean_score`, float32 rounding included, [...]."""


class TileLoss(ABC):
    """A loss of rows of a linear head's outputs z [R, S], made from some columns at a time."""

    #: Whether `tile` needs log Σ exp z of a row.
    softmax: ClassVar[bool] = False
    #: Whether `tile` needs all columns of a row at once.
    whole_rows: ClassVar[bool] = False

    @property
    @abstractmethod
    def columns(self) -> int:
        """How many of the head's outputs, from the first, enter the loss."""

    @property
    def parameters(self) -> Tensor | None:
        """A parameter of the loss for each column, which is trained with the head; None: the loss has none."""
        return None

    @abstractmethod
    def __getitem__(self, rows: slice | Tensor) -> TileLoss:
        """The same loss of some rows."""

    @abstractmethod
    def tile(self, z: Tensor, start: int | Tensor, lse: Tensor | None, dtype: torch.dtype) -> tuple[Tensor, ...]:
        """The part of columns start … start + C − 1 in the loss, [R], and its gradient [R, C], rounded to `dtype`.

        A loss with `parameters` adds their gradient [R, C] of each row, not rounded. z [R, C] is overwritten; lse [R]
        is log Σ exp z over all columns, for a loss with a softmax. All come without `row_weight`.
        """

    @abstractmethod
    def row_weight(self) -> Tensor:
        """The weight of each row, by which its loss and gradient are multiplied, [R]."""

    @abstractmethod
    def neutral_output(self) -> Tensor | float:
        """Outputs whose loss and gradient are 0, [R, 1] or one for all: for columns beyond `columns`."""


@dataclass(frozen=True)
class ScoreEntropyTiles(TileLoss):
    """The score entropy of some rows (theorem 3.6), without σ̄′."""

    kernels: Kernels[Any]
    targets: Targets

    @property
    def columns(self) -> int:
        return self.kernels.graph.vocab_size

    def __getitem__(self, rows: slice | Tensor) -> ScoreEntropyTiles:
        return ScoreEntropyTiles(self.kernels, self.targets[rows])

    def tile(self, z: Tensor, start: int | Tensor, lse: Tensor | None, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        return self.kernels.loss_tile(z, start, self.targets, dtype)

    def row_weight(self) -> Tensor:
        return self.kernels.row_weight(self.targets)

    def neutral_output(self) -> Tensor | float:
        return self.kernels.neutral_output(self.targets)


@dataclass(frozen=True)
class ConcreteScoreTiles(TileLoss):
    """Σ_{y≠x} Q(x,y)·(s_y − r_y)²/2 of some rows, without σ̄′ (`losses.concrete_score`)."""

    kernels: Kernels[Any]
    targets: Targets

    @property
    def columns(self) -> int:
        return self.kernels.graph.vocab_size

    def __getitem__(self, rows: slice | Tensor) -> ConcreteScoreTiles:
        return ConcreteScoreTiles(self.kernels, self.targets[rows])

    def tile(self, z: Tensor, start: int | Tensor, lse: Tensor | None, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Gradient: (s_y − r_y)·s_y, and 0 at x; both in units of the row."""
        others, at_x0 = (ratio[:, None].to(z.dtype) for ratio in self.kernels.true_ratios(self.targets))
        s = z.sub_(self.kernels.log_unit(self.targets, z.dtype)).exp_()
        error = s - others
        inside, column = in_tile(self.targets.x0, z, start)
        error.scatter_(1, column, torch.where(inside, s.gather(1, column) - at_x0, error.gather(1, column)))
        inside, column = in_tile(self.targets.x, z, start)
        error.scatter_(1, column, torch.where(inside, 0.0, error.gather(1, column)))
        return error.square().sum(-1) / 2, s.mul_(error).to(dtype)

    def row_weight(self) -> Tensor:
        return self.kernels.squared_error_weight(self.targets)

    def neutral_output(self) -> Tensor | float:
        return self.kernels.neutral_output(self.targets)


@dataclass(frozen=True)
class CrossEntropyTiles(TileLoss):
    """−log softmax(z)[x0] over the tokens, for x0 [R]."""

    softmax: ClassVar[bool] = True
    x0: Tensor
    vocab_size: int

    @property
    def columns(self) -> int:
        return self.vocab_size

    def __getitem__(self, rows: slice | Tensor) -> CrossEntropyTiles:
        return CrossEntropyTiles(self.x0[rows], self.vocab_size)

    def tile(self, z: Tensor, start: int | Tensor, lse: Tensor | None, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Gradient: softmax(z) − [y = x0]."""
        assert lse is not None
        inside, column = in_tile(self.x0, z, start)
        log_p = z.sub_(lse[:, None])
        part = torch.where(inside, -log_p.gather(1, column), 0.0)[:, 0]
        p = log_p.exp_()
        at_x0 = p.gather(1, column) - inside.to(p.dtype)
        return part, p.to(dtype).scatter_(1, column, at_x0.to(dtype))

    def row_weight(self) -> Tensor:
        return torch.ones_like(self.x0, dtype=torch.float64)

    def neutral_output(self) -> float:
        return -torch.inf


def in_tile(token: Tensor, z: Tensor, start: int | Tensor) -> tuple[Tensor, Tensor]:
    """Whether token [R] is one of start … start + C − 1, columns of z [R, C], and the column, clamped: both [R, 1].

    Nothing here depends on a value, so a GPU need not be waited for.
    """
    column = token[:, None] - start
    inside = (column >= 0) & (column < z.shape[-1])
    return inside, column.clamp(0, z.shape[-1] - 1)
