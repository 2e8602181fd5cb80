"""Kernels of the uniform graph."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from sedd_cli.core.fast.base import Kernels, Targets, in_tile
from sedd_cli.core.fast.posterior import UniformPosteriorTiles
from sedd_cli.core.graphs.transition import Transition, per_position
from sedd_cli.core.graphs.uniform import Uniform

#: Allows for the float32 rounding of a sum over the vocabulary.
ROUNDING = 1 + 1e-4


@dataclass(frozen=True)
class UniformKernels(Kernels[Uniform]):
    """Every position may change at any time."""

    def score_entropy(self, log_score: Tensor, sigma: Tensor, x: Tensor, x0: Tensor) -> Tensor:
        """(1/N)·Σ_{y≠x} R_y·φ(log s_y − log R_y), φ(v) = e^v − 1 − v, R_y the true ratio: a sum of non-negative terms.

        With E = expm1(sigma) and log ρ = −log1p(N/E): R_y = ρ for all y ≠ x where x = x0; elsewhere R_y = 1
        except R_{x0} = 1/ρ. The textbook form of the same sum is NaN or inf at small sigma in float32.
        """
        log_rho = self.graph.log_rho(per_position(sigma, x)).to(log_score.dtype).expand(x.shape)
        kept = x == x0
        base = torch.where(kept, log_rho, 0.0)[..., None].expand(log_score.shape)
        log_ratio = base.scatter(-1, x0[..., None], torch.where(kept, log_rho, -log_rho)[..., None])
        v = (log_score - log_ratio).scatter(-1, x[..., None], 0.0)
        R = log_ratio.exp() / self.graph.vocab_size
        return (scaled_rise(R, v) - R * v).sum(-1)

    def loss_tile(self, z: Tensor, start: int | Tensor, targets: Targets, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Σ_y (R_y/N)·φ(v_y) with gradient (R_y/N)·expm1(v_y), v_y = z_y − log R_y: φ ≥ 0 term by term.

        R_y is the row's, except at y = x0 ≠ x. R/N is part of the tile, because e^v, and e^z = R·e^v and its sum, can
        overflow where R·e^v/N fits.
        """
        x, x0, N = targets.x, targets.x0, self.graph.vocab_size
        log_rho = self.graph.log_rho(targets.sigma).to(z.dtype)
        base = self.neutral_output(targets).to(z.dtype)
        # a score of 1 at x itself costs nothing and has no gradient
        inside, column = in_tile(x, z, start)
        z.scatter_(1, column, torch.where(inside, base, z.gather(1, column)))
        inside, column = in_tile(x0, z, start)
        inside, was, R0 = inside & (x != x0)[:, None], z.gather(1, column), torch.exp(-log_rho)[:, None] / N
        v0 = was + log_rho[:, None]
        z.scatter_(1, column, torch.where(inside, 0.0, was))
        v, R = z.sub_(base), base.exp() / N
        rise = scaled_rise(R, v)
        part = torch.addcmul(rise, v, R, value=-1, out=v).sum(-1)
        rise0 = scaled_rise(R0, v0)
        part += torch.where(inside, rise0 - R0 * v0, 0.0)[:, 0]
        at_x0 = torch.where(inside, rise0, rise.gather(1, column))
        return part, rise.to(dtype).scatter_(1, column, at_x0.to(dtype))

    def neutral_output(self, targets: Targets) -> Tensor:
        """log R_y of a token that is neither x nor x0."""
        kept = targets.x == targets.x0
        return torch.where(kept, self.graph.log_rho(targets.sigma), 0.0)[:, None]

    def row_weight(self, targets: Targets) -> Tensor:
        return torch.ones_like(targets.sigma)  # Q(x, y) = 1/N is part of the tile

    def log_unit(self, targets: Targets, dtype: torch.dtype) -> float:
        return math.log(self.graph.vocab_size) / 2  # Q(x, y) times its square is 1

    def true_ratios(self, targets: Targets) -> tuple[Tensor, Tensor]:
        rho, unit = self.graph.log_rho(targets.sigma).exp(), math.sqrt(self.graph.vocab_size)
        return torch.where(targets.x == targets.x0, rho, 1.0) / unit, 1 / (rho * unit)

    def squared_error_weight(self, targets: Targets) -> Tensor:
        return self.row_weight(targets)

    def posterior_kl_tiles(
        self, sigma_s: Tensor, sigma_t: Tensor, x: Tensor, x0: Tensor, cross_entropy: float
    ) -> UniformPosteriorTiles:
        return UniformPosteriorTiles(
            x, x0, sigma_s.double(), sigma_t.double(), self.graph.vocab_size, torch.full_like(sigma_t, cross_entropy)
        )

    def euler(self, log_score: Tensor, x: Tensor, step: Tensor) -> Transition:
        weights = log_score.exp().scatter_(-1, x[..., None], 0.0)
        move_probability = per_position(step, x).double() / self.graph.vocab_size * weights.sum(-1, dtype=torch.float64)
        return Transition(move_probability.clamp(max=1.0), weights)

    def tweedie(self, log_score: Tensor, x: Tensor, delta_sigma: Tensor) -> Transition:
        # (e^{Δσ}s_y + (1−e^{Δσ})·Σs/N)·(e^{−Δσ}[x=y] + (1−e^{−Δσ})/N), negative masses clamped to 0, renormalised.
        # float64, because e^{Δσ} magnifies the rounding of s − mean when steps are few and long
        delta = per_position(delta_sigma, x)[..., None].double()
        grow, arrive = torch.expm1(delta), -torch.expm1(-delta) / self.graph.vocab_size
        s = log_score.double().exp()
        mass = torch.addcmul(s, grow, s - s.mean(-1, keepdim=True)).clamp_(min=0.0)
        stay = (mass.gather(-1, x[..., None]) * (torch.exp(-delta) + arrive))[..., 0]
        weights = (mass * arrive).scatter_(-1, x[..., None], 0.0)
        moved = weights.sum(-1)
        return Transition(move_probability=moved / (moved + stay), weights=weights)

    def correct(self, log_score: Tensor, x: Tensor, step: Tensor) -> Transition:
        weights = (log_score.exp() + 1).scatter_(-1, x[..., None], 0.0)
        move_probability = per_position(step, x).double() / self.graph.vocab_size * weights.sum(-1, dtype=torch.float64)
        return Transition(move_probability.clamp(max=1.0), weights)

    def decode(self, log_score: Tensor, x: Tensor, sigma: Tensor) -> Transition:
        # p_sigma(x|y)·s_y, where p_sigma(x|y) is the same for every y ≠ x
        weights = log_score.exp().scatter_(-1, x[..., None], 0.0)
        total = weights.sum(-1, dtype=torch.float64)
        return Transition(self._decoded(total, per_position(sigma, x)), weights)

    def _decoded(self, others: Tensor, sigma: Tensor) -> Tensor:
        """The probability that `decode` moves, from others [R] = Σ_{y≠x} s_y."""
        moved = -torch.expm1(-sigma.double()) / self.graph.vocab_size
        return moved * others / (moved * others + torch.exp(-sigma.double()) + moved)

    def euler_bound(self, total: Tensor, x: Tensor, step: Tensor) -> Tensor:
        return ROUNDING * step / self.graph.vocab_size * (total.double() - 1).clamp(min=0)

    def tweedie_bound(self, total: Tensor, x: Tensor, delta_sigma: Tensor) -> Tensor:
        # clamping the masses e^Δσ·s_y − expm1(Δσ)·mean at 0 leaves at most e^Δσ·s_y of each
        grow, arrive = torch.expm1(delta_sigma), -torch.expm1(-delta_sigma) / self.graph.vocab_size
        mean = total.double() / self.graph.vocab_size
        stay = (1 + grow * (1 - mean * ROUNDING)).clamp(min=0) * (torch.exp(-delta_sigma) + arrive)
        moved = arrive * torch.exp(delta_sigma) * (total.double() * ROUNDING - 1).clamp(min=0)
        return moved / (moved + stay)

    def correct_bound(self, total: Tensor, x: Tensor, step: Tensor) -> Tensor:
        return self.euler_bound(total, x, step) + ROUNDING * step * (self.graph.vocab_size - 1) / self.graph.vocab_size

    def decode_bound(self, total: Tensor, x: Tensor, sigma: Tensor) -> Tensor:
        return self._decoded((total.double() * ROUNDING - 1).clamp(min=0), sigma)

    def mean_total(self, sigma: Tensor) -> Tensor:
        # linear in p(·|x), so largest at a corner: all of it on one y ≠ x
        return ROUNDING * (self.graph.vocab_size - 1 + torch.exp(-self.graph.log_rho(sigma)))


def scaled_rise(R: Tensor, v: Tensor) -> Tensor:
    """R·(e^v − 1) for R > 0, exact near v = 0 and finite wherever R·e^v is, up to |v| of twice what e^v allows.

    e^v − 1 = h·(h + 2) with h = e^{v/2} − 1, and R is applied to the first factor.
    """
    h = torch.expm1(v / 2)
    return (R * h) * (h + 2)
