"""The process of GIDD (von Rütte et al. 2025): tokens give way to MASK and to uniform tokens, in a changing ratio.

At time t a clean token x0 has the distribution α·δ(x0) + m·δ(MASK) + w·uniform, with

    c = B·√(t(1 − t)),  C = 1 + κ·c,  m = t/C,  w = c/C,  α = (1 − t − (1 − κ)·c)/C.

Total noise is sigma = −log α, so that noise reaches a position at rate 1 per unit of sigma. What it puts there depends
on sigma: no single generator gives this process, but between any two noise levels it is one of `Mixture`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from sedd_cli.core.graphs.transition import per_position
from sedd_cli.core.graphs.with_mask import WithMask
from sedd_cli.core.schedules import Schedule


@dataclass(frozen=True)
class Mixing:
    """Which share of the noise is MASK.

    p_uniform: the share of uniform noise at t = 1/2, where it is largest. reached: the number of tokens that uniform
    noise is over. first_version: the formula of the code's versions up to 1.0.1, which differs by O(1/reached).
    """

    p_uniform: float
    reached: int
    first_version: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.p_uniform < 1:
            raise ValueError(f"p_uniform must lie in [0, 1), found {self.p_uniform}")

    @property
    def B(self) -> float:
        p, M = self.p_uniform, self.reached
        return 2 * p * M / (2 * p + (1 - p) * (M + 1)) if self.first_version else 2 * p / (1 - p)

    @property
    def kappa(self) -> float:
        return 1 - 1 / self.reached if self.first_version else 1.0

    def alpha(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """(α, dα/dt) at t [...] in (0, 1)."""
        root = (t * (1 - t)).sqrt()
        c, dc = self.B * root, self.B * (1 - 2 * t) / (2 * root)
        C, dC = 1 + self.kappa * c, self.kappa * dc
        alpha = (1 - t - (1 - self.kappa) * c) / C
        return alpha, (-1 - (1 - self.kappa) * dc - alpha * dC) / C

    def t(self, sigma: Tensor) -> Tensor:
        """The time at which α = e^{−sigma}, float64: with τ = √(t/(1 − t)) a root of a quadratic."""
        alpha, lam = torch.exp(-sigma.double()), -torch.expm1(-sigma.double())
        k = self.B * (alpha * self.kappa + 1 - self.kappa)
        tau = 2 * lam / (k + (k * k + 4 * alpha * lam).sqrt()).clamp(min=1e-300)
        return tau**2 / (1 + tau**2)

    def mask(self, sigma: Tensor) -> Tensor:
        """m [...] float64, the probability that a position is MASK."""
        t = self.t(sigma)
        return t / (1 + self.kappa * self.B * (t * (1 - t)).sqrt())

    def mask_rate(self, sigma: Tensor) -> Tensor:
        """dm/dsigma + m: the rate at which MASK takes a position's place, of 1 in all."""
        t = self.t(sigma).clamp(1e-12, 1 - 1e-12)
        root = (t * (1 - t)).sqrt()
        C, dC = 1 + self.kappa * self.B * root, self.kappa * self.B * (1 - 2 * t) / (2 * root)
        alpha, dalpha = self.alpha(t)
        return (1 - t / C * dC) / C * alpha / -dalpha + t / C


@dataclass(frozen=True)
class MixingSchedule(Schedule):
    """Total noise of `Mixing`. Times above 1 − t_eps count as 1 − t_eps; `t` gives those of [t_eps, 1 − t_eps] alone.

    Networks were trained between these times.
    """

    name: ClassVar[str] = "gidd"
    mixing: Mixing
    t_eps: float = 1e-4

    def __call__(self, t: Tensor) -> tuple[Tensor, Tensor]:
        # sigma goes on falling below t_eps, where samplers end
        alpha, dalpha = self.mixing.alpha(t.clamp(min=1e-12, max=1 - self.t_eps))
        return -alpha.log(), -dalpha / alpha

    def t(self, sigma: Tensor) -> Tensor:
        return self.mixing.t(sigma).clamp(self.t_eps, 1 - self.t_eps).to(sigma.dtype)


@dataclass(frozen=True, eq=False)
class Mixture(WithMask):
    """A position is reached at rate 1, and then becomes MASK with probability `share`, else a uniform token.

    share [...] is one for all positions, one a sequence, or one a position. The token may be the one that was there.
    """

    name: ClassVar[str] = "mixture"
    reached: int
    share: Tensor

    def arrival(self, x: Tensor) -> Tensor:
        """The probability that a reached position becomes x, [...] float64."""
        share = per_position(self.share.to(x.device), x)
        return torch.where(x == self.mask, share, torch.where(x < self.reached, (1 - share) / self.reached, 0.0))

    def arrivals(self, like: Tensor) -> Tensor:
        """The same for all states, [..., S] or of a shape that broadcasts to it, at positions like [...]."""
        share = per_position(self.share.to(like.device), like)[..., None]
        spare = share.new_zeros(*share.shape[:-1], self.vocab_size - self.reached)
        uniform = ((1 - share) / self.reached).expand(*share.shape[:-1], self.reached)
        return torch.cat([uniform, spare, share], -1)

    def rate(self, x: Tensor) -> Tensor:
        return self.arrivals(x) - F.one_hot(x, self.states)

    def transition(self, sigma: Tensor, x: Tensor) -> Tensor:
        sigma = sigma.double()[..., None]
        return torch.exp(-sigma) * F.one_hot(x, self.states) - torch.expm1(-sigma) * self.arrivals(x)

    def rate_into(self, x: Tensor) -> Tensor:
        return self.arrival(x)[..., None].expand(*x.shape, self.states).scatter(-1, x[..., None], 0.0)

    def transition_into(self, sigma: Tensor, x: Tensor) -> Tensor:
        sigma = per_position(sigma, x).double().expand(x.shape)[..., None]
        arrive = (-torch.expm1(-sigma) * self.arrival(x)[..., None]).expand(*x.shape, self.states)
        return arrive.scatter_add(-1, x[..., None], torch.exp(-sigma))

    def propagate(self, sigma: Tensor, values: Tensor) -> Tensor:
        values = values.double()
        sigma = per_position(sigma.double(), values[..., 0])[..., None]
        arrivals = self.arrivals(values[..., 0])
        return torch.exp(-sigma) * values - torch.expm1(-sigma) * arrivals * values.sum(-1, keepdim=True)

    def active(self, x: Tensor) -> Tensor:
        return torch.ones_like(x, dtype=torch.bool)


@dataclass(frozen=True)
class Gidd(WithMask):
    """N tokens and MASK, which is state N, under `Mixing`. Its rates depend on noise: `between` gives them."""

    name: ClassVar[str] = "gidd"
    mixing: Mixing

    def between(self, sigma_s: Tensor, sigma_t: Tensor) -> Mixture:
        sigma_s, sigma_t = sigma_s.double(), sigma_t.double()
        delta = sigma_t - sigma_s
        arrived = self.mixing.mask(sigma_t) - torch.exp(-delta) * self.mixing.mask(sigma_s)
        share = torch.where(delta > 0, arrived / -torch.expm1(-delta), self.mixing.mask_rate(sigma_t))
        return Mixture(self.vocab_size, self.mixing.reached, share.clamp(0.0, 1.0))

    def _since_clean(self, sigma: Tensor) -> Mixture:
        """The process from no noise to noise |sigma|."""
        sigma = sigma.double().abs()
        return self.between(torch.zeros_like(sigma), sigma)

    def rate(self, x: Tensor) -> Tensor:
        raise ValueError("the rates of the graph 'gidd' depend on noise: take those of `between`")

    def transition(self, sigma: Tensor, x: Tensor) -> Tensor:
        return self._since_clean(sigma).transition(sigma, x)

    def transition_into(self, sigma: Tensor, x: Tensor) -> Tensor:
        return self._since_clean(sigma).transition_into(sigma, x)

    def propagate(self, sigma: Tensor, values: Tensor) -> Tensor:
        return self._since_clean(sigma).propagate(sigma, values)

    def base(self) -> Tensor:
        return F.one_hot(torch.tensor(self.mask), self.states).double()

    def sample_base(self, u: Tensor) -> Tensor:
        return torch.full_like(u, self.mask, dtype=torch.int64)

    def active(self, x: Tensor) -> Tensor:
        return torch.ones_like(x, dtype=torch.bool)

    def active_share(self, sigma: Tensor) -> Tensor:
        return torch.ones_like(sigma, dtype=torch.float64)

    def largest_score(self, sigma: Tensor) -> Tensor:
        # p(y|x0)/p(x|x0) with x0 ≠ x: y is x0 or MASK, x another token or MASK
        alpha, mask = torch.exp(-sigma.double()), self.mixing.mask(sigma)
        token = (1 - alpha - mask) / self.mixing.reached
        return torch.maximum(alpha + token, mask).log() - torch.minimum(token, mask).log()


def gidd_process(vocab_size: int, mixing: Mixing, t_eps: float = 1e-4) -> tuple[Gidd, MixingSchedule]:
    """Graph and schedule of GIDD."""
    if not 0 < t_eps < 0.5 or not math.isfinite(t_eps):
        raise ValueError(f"t_eps must lie in (0, 1/2), found {t_eps}")
    if not mixing.alpha(torch.tensor(1 - t_eps, dtype=torch.float64))[0] > 0:
        raise ValueError(f"{mixing.reached} tokens are too few for t_eps {t_eps}: no clean one is left before t = 1")
    return Gidd(vocab_size, mixing), MixingSchedule(mixing, t_eps)
