"""The absorbing graph: a token is kept until it turns into MASK (eq. 16)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from sedd_cli.core.graphs.base import GRAPHS, Draw, Graph, Transition, in_tile, per_position, zero_at
from sedd_cli.core.schedules import Schedule

if TYPE_CHECKING:
    from sedd_cli.core.fast.fused import Targets
    from sedd_cli.core.score import ScoreModel


#: The normaliser e^m that no position is expected to exceed; the sampler checks those it looks at.
SLACK = 8.0
#: Numbers of masks k are drawn ∝ k to the minus this: measured best between 0 and 0.7 on a trained model.
COUNT_POWER = 1 / 3


@GRAPHS.register
@dataclass(frozen=True)
class Absorbing(Graph):
    """N tokens and MASK, which is state N.

    With `scale_by_sigma` the network learns log-ratios of clean tokens and the graph adds the known
    factor 1/expm1(sigma) (appendix C.1).
    """

    name: ClassVar[str] = "absorbing"
    scale_by_sigma: bool = True

    @property
    def states(self) -> int:
        return self.vocab_size + 1

    @property
    def mask(self) -> int:
        return self.vocab_size

    def perturb(self, x0: Tensor, sigma: Tensor, u: Tensor) -> Tensor:
        moved = u < -torch.expm1(-per_position(sigma, x0).double())
        return torch.where(moved, self.mask, x0)

    def sample_base(self, u: Tensor) -> Tensor:
        return torch.full_like(u, self.mask, dtype=torch.int64)

    def active(self, x: Tensor) -> Tensor:
        return x == self.mask

    def active_share(self, sigma: Tensor) -> Tensor:
        return -torch.expm1(-sigma)

    def log_score(self, z: Tensor, sigma: Tensor, x: Tensor) -> Tensor:
        if self.scale_by_sigma:
            sigma = per_position(sigma, x)[..., None]
            z = z - torch.expm1(sigma).log().to(z.dtype) - math.log(self.vocab_size)
        return zero_at(z, x)

    def score_entropy(self, log_score: Tensor, sigma: Tensor, x: Tensor, x0: Tensor) -> Tensor:
        """(1/E)·[CE + (e^m − 1 − m)] at MASK and 0 elsewhere: masked cross-entropy plus a penalty on the normaliser.

        E = expm1(sigma), m = log(E·Σ_y s_y), CE = −log(s_{x0}/Σ_y s_y). Equal to the sum of theorem 3.6.
        """
        log_E = torch.expm1(per_position(sigma, x)).log().to(log_score.dtype)
        return self._score_entropy(log_score, log_E, sigma, x, x0)

    def score_entropy_from(self, z: Tensor, sigma: Tensor, x: Tensor, x0: Tensor) -> Tensor:
        if not self.scale_by_sigma:
            return super().score_entropy_from(z, sigma, x, x0)
        # sigma cancels in CE and m (m = LSE(z) − log N), so the scaled scores need not be formed
        return self._score_entropy(z, -math.log(self.vocab_size), sigma, x, x0)

    def _score_entropy(self, logits: Tensor, log_scale: Tensor | float, sigma: Tensor, x: Tensor, x0: Tensor) -> Tensor:
        """From log-scores up to a constant: E·s_y = exp(logits_y + log_scale)."""
        total = logits[..., : self.vocab_size].logsumexp(-1)
        ce = total - logits.gather(-1, x0[..., None])[..., 0]
        # where() alone would let a NaN of an unused position into the gradient: the unused m is set to 0 first
        masked = x == self.mask
        m = torch.where(masked, total + log_scale, 0.0)
        E = torch.expm1(per_position(sigma, x)).to(logits.dtype)
        return torch.where(masked, (ce + (torch.expm1(m) - m)) / E, 0.0)

    def loss_tile(self, z: Tensor, start: int, targets: Targets) -> Tensor:
        """Σ_y e^{v_y} − [x0](1 + v_{x0}), v = z − log A; gradient e^{v_y} − [y = x0]; A: e^{z_y}/A is y's mass.

        For CE + e^m − 1 − m = Σ_y e^{v_y} − 1 − v_{x0}: the logarithms of Σ e^z in CE and in m cancel.
        """
        inside, column = in_tile(targets.x0, z, start)
        log_A = (
            math.log(self.vocab_size) if self.scale_by_sigma else -torch.expm1(targets.sigma).log()[:, None].to(z.dtype)
        )
        target = z.sub_(log_A).gather(1, column)
        share = z.exp_().sum(-1) - torch.where(inside, 1 + target, 0.0)[:, 0]
        z.scatter_add_(1, column, -inside.to(z.dtype))
        return share

    def loss_factor(self, targets: Targets) -> Tensor:
        return 1 / torch.expm1(targets.sigma)

    @property
    def counts(self) -> bool:
        return True

    def all_noise(self, schedule: Schedule, v: Tensor) -> tuple[Tensor, Tensor]:
        # λ = v over (0, 1), whatever the schedule: the model that sampling simulates starts from all MASK
        return -torch.log1p(-v), 1 / (1 - v)

    def count_draw(self, x0: Tensor, v: Tensor, u: Tensor, low: float, high: float) -> Draw:
        """The count form: k masks at the k smallest uniforms, λ the k-th smallest of them.

        That order statistic is Beta(k, L−k+1) and independent of which positions are masked, so
        L·E_k E_λ E_{|S|=k} (1/k) Σ_{i∈S} (CE_i + e^{m_i} − 1 − m_i), k uniform, is the integral over all noise,
        for networks that see sigma too; over a part of it, λ outside counts nothing. k is drawn ∝ k^{−1/3} and
        weighed back: a mean over few masks scatters more.
        """
        length = x0.shape[-1]
        share = torch.arange(1, length + 1, device=x0.device, dtype=torch.float64) ** -COUNT_POWER
        share /= share.sum()
        k = torch.searchsorted(share.cumsum(0), v).clamp(max=length - 1)
        lam = u.sort(-1).values.gather(-1, k[:, None])
        sigma = -torch.log1p(-lam[:, 0])
        weight = torch.expm1(sigma) / ((k + 1) * share[k])
        inside = (sigma >= low) & (sigma <= high)
        return Draw(torch.where(u <= lam, self.mask, x0), sigma, torch.where(inside, weight, 0.0))

    def control(self, draw: Draw, cost: Tensor, low: float, high: float) -> Tensor:
        # weight/E·Σ over masks, like the loss, has the expectation ∫ (1/λ)·λ·Σ dλ: the whole sum times the range of λ
        masked = (cost * self.active(draw.x)).sum(-1)
        return draw.weight / torch.expm1(draw.sigma) * masked - (math.exp(-low) - math.exp(-high)) * cost.sum(-1)

    def end_terms(self, model: ScoreModel, x0: Tensor, u: Tensor) -> Tensor:
        return torch.zeros(len(x0), device=x0.device)

    def normaliser(self, log_score: Tensor, sigma: Tensor) -> Tensor:
        # e^m = E·Σ_y s_y: given that MASK stands here, the clean token is one of the N
        return torch.expm1(sigma.double()) * log_score[..., : self.vocab_size].double().exp().sum(-1)

    def largest_score(self, sigma: Tensor) -> Tensor:
        return -torch.expm1(sigma.double()).log()  # E·s_y is a probability

    def assumed_total(self, sigma: Tensor) -> Tensor:
        # Σ_y s_y = e^m/E, and training drives e^m to 1
        return SLACK / torch.expm1(sigma)

    def mean_score(self, z: Tensor, sigma: Tensor, x: Tensor) -> Tensor:
        # given MASK, s_y = p(y|x)/E: the score divided by its normaliser e^m
        log_E = torch.expm1(per_position(sigma, x)).log().to(z.dtype)[..., None]
        tokens = z[..., : self.vocab_size].log_softmax(-1) - log_E
        return zero_at(torch.cat([tokens, torch.zeros_like(z[..., self.vocab_size :])], dim=-1), x)

    def mean_total(self, sigma: Tensor) -> Tensor:
        return (1 + 1e-4) / torch.expm1(sigma)

    def posterior_kl(self, z: Tensor, sigma_s: Tensor, sigma_t: Tensor, x: Tensor, x0: Tensor) -> Tensor:
        # a mask falls by then with the same probability u in both, and then it is a matter of p(x0|x)
        sigma_s, sigma_t = (per_position(sigma, x).double() for sigma in (sigma_s, sigma_t))
        u = (torch.exp(-sigma_s) - torch.exp(-sigma_t)) / -torch.expm1(-sigma_t)
        ce = -z[..., : self.vocab_size].log_softmax(-1).gather(-1, x0[..., None])[..., 0]
        return torch.where(self.active(x), u.to(ce.dtype) * ce, 0.0)

    def squared_error(self, log_score: Tensor, sigma: Tensor, x: Tensor, x0: Tensor) -> Tensor:
        # at MASK r_y = 1/E for y = x0, else 0
        score = log_score[..., : self.vocab_size].exp()
        ratio = (1 / torch.expm1(per_position(sigma, x))).to(score.dtype)[..., None].expand(*x.shape, 1)
        error = score.scatter_add(-1, x0[..., None], -ratio)
        return torch.where(self.active(x), error.square().sum(-1) / 2, 0.0)

    def prior(self, model: ScoreModel, x0: Tensor) -> Tensor:
        return torch.zeros(len(x0), device=x0.device)  # all noise is all MASK

    def euler_bound(self, total: Tensor, x: Tensor, step: Tensor) -> Tensor:
        return step * total

    def tweedie_bound(self, total: Tensor, x: Tensor, delta_sigma: Tensor) -> Tensor:
        return torch.expm1(delta_sigma) * total

    def denoise_bound(self, total: Tensor, x: Tensor, sigma: Tensor) -> Tensor:
        return torch.ones_like(total, dtype=torch.float64)

    def euler(self, log_score: Tensor, x: Tensor, step: Tensor) -> Transition:
        return self._unmask(log_score, x, step)

    def tweedie(self, log_score: Tensor, x: Tensor, delta_sigma: Tensor) -> Transition:
        # p(y) ∝ expm1(Δσ)·s_y, p(MASK) ∝ 1 − expm1(Δσ)·Σ s_y
        return self._unmask(log_score, x, torch.expm1(delta_sigma))

    def correct(self, log_score: Tensor, x: Tensor, step: Tensor) -> Transition:
        return self._unmask(log_score, x, step)  # the forward process does not move a mask

    def correct_bound(self, total: Tensor, x: Tensor, step: Tensor) -> Tensor:
        return step * total

    def denoise(self, log_score: Tensor, x: Tensor, sigma: Tensor) -> Transition:
        # MASK is forbidden in the end, so every mask moves, whatever the normaliser says
        jump = self._unmask(log_score, x, torch.expm1(sigma))
        return Transition(move_probability=self.active(x).double(), weights=jump.weights)

    def _unmask(self, log_score: Tensor, x: Tensor, factor: Tensor) -> Transition:
        """p(y) = factor·s_y for every token y, and MASK keeps the rest."""
        weights = log_score.exp()
        weights[..., self.mask] = 0.0
        move_probability = per_position(factor, x).double() * weights.sum(-1, dtype=torch.float64)
        return Transition(torch.where(self.active(x), move_probability, 0.0).clamp(max=1.0), weights)
