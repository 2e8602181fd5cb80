"""The uniform graph: a token jumps to any other with equal rate (eq. 15)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from sedd_cli.core.graphs.base import GRAPHS, Graph, Transition, in_tile, per_position, zero_at

if TYPE_CHECKING:
    from sedd_cli.core.fast.fused import Targets
    from sedd_cli.core.score import ScoreModel


#: Allows for the float32 rounding of a sum over the vocabulary.
ROUNDING = 1 + 1e-4


@GRAPHS.register
@dataclass(frozen=True)
class Uniform(Graph):
    """N tokens, Q = (11ᵀ)/N − I: the paper's matrix scaled by 1/N, so that sigma means the same at any N."""

    name: ClassVar[str] = "uniform"

    @property
    def states(self) -> int:
        return self.vocab_size

    def perturb(self, x0: Tensor, sigma: Tensor, u: Tensor) -> Tensor:
        lam = -torch.expm1(-per_position(sigma, x0).double())
        # given u < λ, u/λ is uniform again and picks the new token (which may be the old one)
        fresh = (u / lam.clamp(min=1e-300) * self.vocab_size).clamp(max=self.vocab_size - 1).long()
        return torch.where(u < lam, fresh, x0)

    def sample_base(self, u: Tensor) -> Tensor:
        return (u * self.vocab_size).long()

    def active(self, x: Tensor) -> Tensor:
        return torch.ones_like(x, dtype=torch.bool)

    def active_share(self, sigma: Tensor) -> Tensor:
        return torch.ones_like(sigma)

    def log_score(self, z: Tensor, sigma: Tensor, x: Tensor) -> Tensor:
        return zero_at(z, x)

    def score_entropy(self, log_score: Tensor, sigma: Tensor, x: Tensor, x0: Tensor) -> Tensor:
        """(1/N)·Σ_{y≠x} R_y·φ(log s_y − log R_y), φ(v) = e^v − 1 − v, R_y the true ratio: a sum of non-negative terms.

        With E = expm1(sigma) and log ρ = −log1p(N/E): R_y = ρ for all y ≠ x where x = x0; elsewhere R_y = 1
        except R_{x0} = 1/ρ. The textbook form of the same sum is NaN or inf at small sigma in float32.
        """
        log_rho = self._log_rho(per_position(sigma, x)).to(log_score.dtype).expand(x.shape)
        kept = x == x0
        base = torch.where(kept, log_rho, 0.0)[..., None].expand(log_score.shape)
        log_ratio = base.scatter(-1, x0[..., None], torch.where(kept, log_rho, -log_rho)[..., None])
        v = (log_score - log_ratio).scatter(-1, x[..., None], 0.0)
        return (log_ratio.exp() * (torch.expm1(v) - v)).sum(-1) / self.vocab_size

    def loss_tile(self, z: Tensor, start: int, targets: Targets) -> Tensor:
        """Σ_y φ(v_y) with gradient expm1(v_y), v_y = z_y − log R_y: φ ≥ 0 term by term, as in `score_entropy`.

        The factor R_y/N of a term is its row's, except at y = x0 ≠ x, where it is made up for.
        """
        x, x0 = targets.x, targets.x0
        log_rho = self._log_rho(targets.sigma).to(z.dtype)
        kept = x == x0
        base = torch.where(kept, log_rho, 0.0)[:, None]
        inside, column = in_tile(x, z, start)
        # a score of 1 at x itself costs nothing and has no gradient
        z.scatter_(1, column, torch.where(inside, base, z.gather(1, column)))
        inside, column = in_tile(x0, z, start)
        inside, was, R0 = inside & ~kept[:, None], z.gather(1, column), torch.exp(-log_rho)[:, None]
        v0 = was + log_rho[:, None]
        z.scatter_(1, column, torch.where(inside, 0.0, was))
        v = z.sub_(base)
        rise = torch.expm1(v)
        share = torch.sub(rise, v, out=v).sum(-1)
        share += torch.where(inside, R0 * (torch.expm1(v0) - v0), 0.0)[:, 0]
        z.copy_(rise)
        z.scatter_(1, column, torch.where(inside, R0 * torch.expm1(v0), z.gather(1, column)))
        return share

    def loss_factor(self, targets: Targets) -> Tensor:
        return torch.where(targets.x == targets.x0, self._log_rho(targets.sigma).exp(), 1.0) / self.vocab_size

    def _log_rho(self, sigma: Tensor) -> Tensor:
        """log of p_σ(y|x0)/p_σ(x0|x0) for y ≠ x0."""
        return -torch.log1p(self.vocab_size / torch.expm1(sigma))

    def prior(self, model: ScoreModel, x0: Tensor) -> Tensor:
        high = model.schedule.sigma(1.0)
        keep, log_lam = math.exp(-high), math.log(-math.expm1(-high))
        log_aN = math.log1p((self.vocab_size - 1) * keep)
        a = keep - math.expm1(-high) / self.vocab_size
        each = a * log_aN + (1 - a) * log_lam
        return torch.full((len(x0),), x0.shape[1] * each, dtype=torch.float64, device=x0.device)

    def mean_score(self, z: Tensor, sigma: Tensor, x: Tensor) -> Tensor:
        """s_y = p(x|x)·ρ + p(y|x)/ρ + the rest, with p_σ(y|x0)/p_σ(x|x0) = ρ for x0 = x, 1/ρ for x0 = y, else 1."""
        # float64: 1 − p(x|x) has to be told from ρ, which is 1e-9 at small sigma
        p = z.double().softmax(-1)
        log_rho = self._log_rho(per_position(sigma, x).double())[..., None]
        moved = -torch.expm1(log_rho) * p.gather(-1, x[..., None])  # 1 − s_y where p(y|x) = 0
        return zero_at(torch.log1p(p * torch.expm1(-log_rho) - moved).to(z.dtype), x)

    def mean_total(self, sigma: Tensor) -> Tensor:
        # linear in p(·|x), so largest at a corner: all of it on one y ≠ x
        return ROUNDING * (self.vocab_size - 1 + torch.exp(-self._log_rho(sigma)))

    def posterior_kl(self, z: Tensor, sigma_s: Tensor, sigma_t: Tensor, x: Tensor, x0: Tensor) -> Tensor:
        """p(x_s = y|x, y0) = p(x|y)·p_s(y|y0)/p_t(x|y0), where p(x|y) is the same on both sides and cancels."""
        p = z.double().softmax(-1)
        sigma_s, sigma_t = (per_position(sigma, x).double()[..., None] for sigma in (sigma_s, sigma_t))
        delta = sigma_t - sigma_s
        moved = [-torch.expm1(-sigma) / self.vocab_size for sigma in (sigma_s, sigma_t, delta)]  # to one other token
        kept = [torch.exp(-sigma) + b for sigma, b in zip((sigma_s, sigma_t, delta), moved, strict=True)]
        here = torch.zeros_like(p).scatter_(-1, x[..., None], 1.0)
        # w(y0) = p(y0|x)/p_t(x|y0); then Σ_{y0} p_s(y|y0)·w(y0) = e^{−sigma_s}·w(y) + moved_s·Σw
        w = p / torch.where(here > 0, kept[1], moved[1])
        guess = torch.exp(-sigma_s) * w + moved[0] * w.sum(-1, keepdim=True)
        is_x0 = torch.zeros_like(here).scatter_(-1, x0[..., None], 1.0)
        seen = torch.where(x0 == x, kept[1][..., 0], moved[1][..., 0])[..., None]
        truth = torch.where(is_x0 > 0, kept[0], moved[0]) / seen
        arrive = torch.where(here > 0, kept[2], moved[2])
        terms = torch.xlogy(truth, truth) - torch.xlogy(truth, guess.clamp(min=1e-300))
        return (arrive * terms).sum(-1).to(z.dtype)

    def squared_error(self, log_score: Tensor, sigma: Tensor, x: Tensor, x0: Tensor) -> Tensor:
        log_rho = self._log_rho(per_position(sigma, x)).to(log_score.dtype).expand(x.shape)
        kept = x == x0
        ratio = torch.where(kept, log_rho.exp(), 1.0)[..., None].expand(log_score.shape)
        ratio = ratio.scatter(-1, x0[..., None], torch.where(kept, log_rho, -log_rho).exp()[..., None])
        error = (log_score.exp() - ratio).scatter(-1, x[..., None], 0.0)
        return error.square().sum(-1) / 2 / self.vocab_size

    def end_terms(self, model: ScoreModel, x0: Tensor, u: Tensor) -> Tensor:
        """D_KL(p_{1|0} ‖ uniform) plus −log p(x0 | x) for x ~ p_{σ̄(0)|0}, decoded by Bayes' rule.

        The decoder p(y|x) ∝ p_{σ|0}(x|y)·s_y takes p_σ for p_0. Its masses are positive, unlike those of the
        Tweedie step, so one clamped mass cannot make the bound infinite.
        """
        sigma = x0.new_full((len(x0),), model.schedule.sigma(0.0), dtype=torch.float64)
        x = self.perturb(x0, sigma, u)
        total = self.prior(model, x0)
        for rows, log_score in model.scored_rows(x, sigma):
            was, lam = x0[rows.batch, rows.position], -torch.expm1(-rows.sigma)
            log_mass = log_score.double() + (lam / self.vocab_size).log()[:, None]
            log_mass = log_mass.scatter(-1, rows.x[:, None], (1 - lam + lam / self.vocab_size).log()[:, None])
            total.index_add_(0, rows.batch, log_mass.logsumexp(-1) - log_mass.gather(-1, was[:, None])[:, 0])
        return total

    def normaliser(self, log_score: Tensor, sigma: Tensor) -> Tensor:
        # Σ_x p(x)·(1/N) Σ_y p(y)/p(x) = 1, with y over all values of one position and p(x)/p(x) = 1 among them
        return log_score.double().exp().mean(-1)

    def largest_score(self, sigma: Tensor) -> Tensor:
        # p(y)/p(x) is a mean of p(y|x0)/p(x|x0), of which x0 = y has the largest
        return torch.log1p(self.vocab_size / torch.expm1(sigma.double()))

    def euler_bound(self, total: Tensor, x: Tensor, step: Tensor) -> Tensor:
        return ROUNDING * step / self.vocab_size * (total.double() - 1).clamp(min=0)

    def tweedie_bound(self, total: Tensor, x: Tensor, delta_sigma: Tensor) -> Tensor:
        # clamping the masses e^Δσ·s_y − expm1(Δσ)·mean at 0 leaves at most e^Δσ·s_y of each
        grow, arrive = torch.expm1(delta_sigma), -torch.expm1(-delta_sigma) / self.vocab_size
        mean = total.double() / self.vocab_size
        stay = (1 + grow * (1 - mean * ROUNDING)).clamp(min=0) * (torch.exp(-delta_sigma) + arrive)
        moved = arrive * torch.exp(delta_sigma) * (total.double() * ROUNDING - 1).clamp(min=0)
        return moved / (moved + stay)

    def euler(self, log_score: Tensor, x: Tensor, step: Tensor) -> Transition:
        weights = log_score.exp().scatter_(-1, x[..., None], 0.0)
        move_probability = per_position(step, x).double() / self.vocab_size * weights.sum(-1, dtype=torch.float64)
        return Transition(move_probability.clamp(max=1.0), weights)

    def correct_bound(self, total: Tensor, x: Tensor, step: Tensor) -> Tensor:
        return self.euler_bound(total, x, step) + ROUNDING * step * (self.vocab_size - 1) / self.vocab_size

    def correct(self, log_score: Tensor, x: Tensor, step: Tensor) -> Transition:
        weights = (log_score.exp() + 1).scatter_(-1, x[..., None], 0.0)
        move_probability = per_position(step, x).double() / self.vocab_size * weights.sum(-1, dtype=torch.float64)
        return Transition(move_probability.clamp(max=1.0), weights)

    def tweedie(self, log_score: Tensor, x: Tensor, delta_sigma: Tensor) -> Transition:
        # (e^{Δσ}s_y + (1−e^{Δσ})·Σs/N)·(e^{−Δσ}[x=y] + (1−e^{−Δσ})/N), negative masses clamped to 0, renormalised.
        # float64, because e^{Δσ} magnifies the rounding of s − mean when steps are few and long
        delta = per_position(delta_sigma, x)[..., None].double()
        grow, arrive = torch.expm1(delta), -torch.expm1(-delta) / self.vocab_size
        s = log_score.double().exp()
        mass = torch.addcmul(s, grow, s - s.mean(-1, keepdim=True)).clamp_(min=0.0)
        stay = (mass.gather(-1, x[..., None]) * (torch.exp(-delta) + arrive))[..., 0]
        weights = (mass * arrive).scatter_(-1, x[..., None], 0.0)
        moved = weights.sum(-1)
        return Transition(move_probability=moved / (moved + stay), weights=weights)
