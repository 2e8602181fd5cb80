"""What a graph answers: how tokens are corrupted, what a network output means, how to go back.

Every function works position by position: `x` and `x0` have any shape [...], scores and
network outputs one more axis [..., S]. `sigma` either has the shape of x or one number a sequence
([B] beside x [B, L]).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from sedd_cli.core.registry import Registry
from sedd_cli.core.schedules import Schedule

if TYPE_CHECKING:
    from sedd_cli.core.fast.fused import Targets
    from sedd_cli.core.score import ScoreModel

GRAPHS = Registry("graph")


@dataclass(frozen=True)
class Transition:
    """One reverse transition: whether a position moves, and where to if it does.

    `leave` [...] float64 is the probability of moving, `weights` [..., S] the unnormalised law of the
    destination, zero at the current token.
    """

    move_probability: Tensor
    weights: Tensor


@dataclass(frozen=True)
class Draw:
    """A corrupted sequence x [B, L] at noise sigma [B]; weight·Σ score entropy estimates an integral over sigma."""

    x: Tensor
    sigma: Tensor
    weight: Tensor


@dataclass(frozen=True)
class Graph(ABC):
    """A token-level Markov generator Q with N real tokens and S states. Other fields are the recipe's options."""

    name: ClassVar[str]
    vocab_size: int  # N

    def __post_init__(self) -> None:
        if self.vocab_size < 2:
            raise ValueError(f"vocab_size must be at least 2, found {self.vocab_size}")

    @property
    @abstractmethod
    def states(self) -> int:
        """S, the number of states of a position."""

    @property
    def mask(self) -> int | None:
        """The state MASK, where there is one."""
        return None

    # -- forward process ---------------------------------------------------------------------------

    @abstractmethod
    def perturb(self, x0: Tensor, sigma: Tensor, u: Tensor) -> Tensor:
        """Draw x ~ p_{σ|0}(·|x0), one float64 uniform u per position (eqs. 13–16)."""

    @abstractmethod
    def sample_base(self, u: Tensor) -> Tensor:
        """Draw from p_base, the law at infinite noise, one uniform per position; int64 of u's shape."""

    # -- what the network means --------------------------------------------------------------------

    @abstractmethod
    def active(self, x: Tensor) -> Tensor:
        """Bool [...]: the positions whose score is ever used. Losses and samplers need the head only there."""

    @abstractmethod
    def active_share(self, sigma: Tensor) -> Tensor:
        """The share of positions expected to be active at noise sigma [...]."""

    @abstractmethod
    def log_score(self, z: Tensor, sigma: Tensor, x: Tensor) -> Tensor:
        """Network output z [..., S] → log_score [..., S], 0 at the current token (appendix C.1)."""

    @abstractmethod
    def score_entropy(self, log_score: Tensor, sigma: Tensor, x: Tensor, x0: Tensor) -> Tensor:
        """Diffusion-weighted denoising score entropy without σ̄′ (theorem 3.6): nats per unit of sigma, [...].

        Σ_{y≠x} Q(x,y)·(s_y − r_y log s_y + K(r_y)) with r_y = p(y|x0)/p(x|x0) and K(a) = a(log a − 1).
        """

    def score_entropy_from(self, z: Tensor, sigma: Tensor, x: Tensor, x0: Tensor) -> Tensor:
        """`score_entropy` of the network output z [..., S]; a graph may skip the scores it does not need."""
        return self.score_entropy(self.log_score(z, sigma, x), sigma, x, x0)

    @abstractmethod
    def loss_tile(self, z: Tensor, start: int, targets: Targets) -> Tensor:
        """The share of some columns in `score_entropy_from`, [R], and its gradient, which overwrites z.

        z [R, C], finite, holds the network's outputs for tokens start … start + C − 1 (never MASK) at active rows.
        Both come without the factor of their row, `loss_factor`: summed over all tiles, shares · factor are the loss
        and z · factor is the loss's gradient.
        """

    @abstractmethod
    def loss_factor(self, targets: Targets) -> Tensor:
        """What multiplies a row's tiles, float64 [R]."""

    @property
    def counts(self) -> bool:
        """Whether bounds have a count form: noise placed by the number of positions it hits."""
        return False

    def all_noise(self, schedule: Schedule, v: Tensor) -> tuple[Tensor, Tensor]:
        """(sigma, dσ/dv) for v [B] over all the noise that the rigorous bound integrates: here t = v over [0, 1]."""
        return schedule(v)

    def count_draw(self, x0: Tensor, v: Tensor, u: Tensor, low: float, high: float) -> Draw:
        """A draw for the integral over sigma from low to high, placed by number by v [B], corrupted by u [B, L]."""
        raise ValueError(f"the graph {self.name!r} has no count form")

    def control(self, draw: Draw, cost: Tensor, low: float, high: float) -> Tensor:
        """A number [B] with expectation 0 that varies as weight·Σ score entropy does where a token's loss is near its
        cost [B, L]; for graphs with a count form."""
        raise ValueError(f"the graph {self.name!r} has no count form")

    @abstractmethod
    def end_terms(self, model: ScoreModel, x0: Tensor, u: Tensor) -> Tensor:
        """What the integral leaves out of the rigorous bound: prior and reconstruction, nats per sequence [B]."""

    # -- reverse process ---------------------------------------------------------------------------

    @abstractmethod
    def euler(self, log_score: Tensor, x: Tensor, step: Tensor) -> Transition:
        """τ-leaping (eq. 17): δ_x(y) + step·Q(x,y)·s_y, where step [...] = Δt·σ̄′."""

    @abstractmethod
    def tweedie(self, log_score: Tensor, x: Tensor, delta_sigma: Tensor) -> Transition:
        """Analytic step (theorem 4.1): (e^{−ΔσQ} s)_y · e^{ΔσQ}(x,y)."""

    @abstractmethod
    def correct(self, log_score: Tensor, x: Tensor, step: Tensor) -> Transition:
        """Forward and reverse rates at once: step·(Q(y,x) + Q(x,y)·s_y) to y ≠ x, at active positions."""

    def total_of(self, log_score: Tensor) -> Tensor:
        """Σ_y s_y over the tokens, float64 [...]."""
        return log_score[..., : self.vocab_size].exp().sum(-1, dtype=torch.float64)

    @abstractmethod
    def normaliser(self, log_score: Tensor, sigma: Tensor) -> Tensor:
        """What is 1 in the mean over noisy texts x ~ p_σ for the true score, float64 [R], at active positions.

        From log_score [R, S] under sigma [R]. Only where MASK is, it is 1 at every position.
        """

    @abstractmethod
    def largest_score(self, sigma: Tensor) -> Tensor:
        """The log of the largest score that any distribution of clean texts has under sigma [...], float64 [...]."""

    def assumed_total(self, sigma: Tensor) -> Tensor | None:
        """What Σ_y s_y is taken to stay below before the network is asked, [...]; None where nothing is known."""
        return None

    @abstractmethod
    def mean_score(self, z: Tensor, sigma: Tensor, x: Tensor) -> Tensor:
        """log_score [..., S] where softmax(z) over the tokens is the law p(x0|x) of the clean one (mean
        parametrisation): s_y = Σ_{x0} p(x0|x)·p_σ(y|x0)/p_σ(x|x0), at active positions."""

    @abstractmethod
    def mean_total(self, sigma: Tensor) -> Tensor:
        """What Σ_y s_y of `mean_score` never exceeds, float32 rounding included, [...]."""

    @abstractmethod
    def posterior_kl(self, z: Tensor, sigma_s: Tensor, sigma_t: Tensor, x: Tensor, x0: Tensor) -> Tensor:
        """D_KL(p(x_s|x_t = x, x0) ‖ Σ_{y0} p(y0|x)·p(x_s|x, y0)), nats [...], for sigma_s < sigma_t (D3PM, Austin et
        al. 2021, eq. 4 and section 3.3), with p(y0|x) = softmax(z) over the tokens; 0 where x is not active."""

    @abstractmethod
    def squared_error(self, log_score: Tensor, sigma: Tensor, x: Tensor, x0: Tensor) -> Tensor:
        """Concrete score matching without σ̄′ (Meng et al. 2022; appendix D): Σ_{y≠x} Q(x,y)·(s_y − r_y)²/2, [...]."""

    @abstractmethod
    def prior(self, model: ScoreModel, x0: Tensor) -> Tensor:
        """D_KL(p_{1|0}(·|x0) ‖ p_base) where all noise ends, nats per sequence [B]."""

    @abstractmethod
    def euler_bound(self, total: Tensor, x: Tensor, step: Tensor) -> Tensor:
        """At least `euler`'s leave, float64 [R], from total [R] ≥ Σ_y s_y."""

    @abstractmethod
    def tweedie_bound(self, total: Tensor, x: Tensor, delta_sigma: Tensor) -> Tensor:
        """At least `tweedie`'s leave, float64 [R], from total [R] ≥ Σ_y s_y."""

    @abstractmethod
    def correct_bound(self, total: Tensor, x: Tensor, step: Tensor) -> Tensor:
        """At least `correct`'s leave, float64 [R], from total [R] ≥ Σ_y s_y."""

    def denoise_bound(self, total: Tensor, x: Tensor, sigma: Tensor) -> Tensor:
        """At least `denoise`'s leave, float64 [R], from total [R] ≥ Σ_y s_y."""
        return self.tweedie_bound(total, x, sigma)

    def denoise(self, log_score: Tensor, x: Tensor, sigma: Tensor) -> Transition:
        """The last step, from sigma to no noise at all: the Tweedie step over all that is left."""
        return self.tweedie(log_score, x, sigma)


def per_position(value: Tensor, x: Tensor) -> Tensor:
    """A number per sequence [B] (or per position) in a shape that broadcasts against x [B, ...]."""
    return value.reshape(value.shape + (1,) * (x.dim() - value.dim()))


def in_tile(token: Tensor, z: Tensor, start: int) -> tuple[Tensor, Tensor]:
    """Whether token [R] is one of start … start + C − 1, columns of z [R, C], and the column, clamped: both [R, 1].

    Nothing here depends on a value, so that a GPU need not be waited for.
    """
    column = token[:, None] - start
    inside = (column >= 0) & (column < z.shape[-1])
    return inside, column.clamp(0, z.shape[-1] - 1)


def zero_at(log_score: Tensor, x: Tensor) -> Tensor:
    """log_score with the entry of the current token set to 0; the gradient there is cut."""
    return log_score.scatter(-1, x[..., None], 0.0)
