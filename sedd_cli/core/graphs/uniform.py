"""The uniform graph: a token changes into any other at the same rate (eq. 15)."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from sedd_cli.core.graphs.base import GRAPHS, Graph
from sedd_cli.core.graphs.transition import per_position, zero_at


@GRAPHS.register
@dataclass(frozen=True)
class Uniform(Graph):
    """N tokens, Q = (11ᵀ)/N − I: the paper's matrix scaled by 1/N, so that sigma means the same at any N."""

    name: ClassVar[str] = "uniform"

    def rate(self, x: Tensor) -> Tensor:
        N = self.vocab_size
        rate = torch.full((*x.shape, N), 1 / N, dtype=torch.float64, device=x.device)
        return rate.scatter(-1, x[..., None], 1 / N - 1)

    def transition(self, sigma: Tensor, x: Tensor) -> Tensor:
        sigma = sigma.double()[..., None]
        moved = -torch.expm1(-sigma) / self.vocab_size  # to one other token
        return moved.expand(*x.shape, self.vocab_size).scatter(-1, x[..., None], torch.exp(-sigma) + moved)

    def rate_into(self, x: Tensor) -> Tensor:
        return zero_at(self.rate(x), x)  # Q is symmetric

    def transition_into(self, sigma: Tensor, x: Tensor) -> Tensor:
        return self.transition(per_position(sigma, x).expand(x.shape), x)

    def propagate(self, sigma: Tensor, values: Tensor) -> Tensor:
        sigma, values = sigma.double()[..., None], values.double()
        return torch.exp(-sigma) * values - torch.expm1(-sigma) * values.mean(-1, keepdim=True)

    def log_ratio(self, sigma: Tensor, x: Tensor, x0: Tensor) -> Tensor:
        # ρ = p(y|x0)/p(x0|x0) for y ≠ x0; log1p keeps it exact at small sigma
        log_rho = self.log_rho(per_position(sigma, x).double()).expand(x.shape)
        kept = x == x0
        base = torch.where(kept, log_rho, 0.0)[..., None].expand(*x.shape, self.vocab_size)
        base = base.scatter(-1, x0[..., None], torch.where(kept, 0.0, -log_rho)[..., None])
        return zero_at(base, x)

    def log_rho(self, sigma: Tensor) -> Tensor:
        """log of p_sigma(y|x0)/p_sigma(x0|x0) for y ≠ x0, of sigma's shape."""
        return -torch.log1p(self.vocab_size / torch.expm1(sigma))

    def perturb(self, x0: Tensor, sigma: Tensor, u: Tensor) -> Tensor:
        lam = -torch.expm1(-per_position(sigma, x0).double())
        # given u < λ, u/λ is uniform again and picks the new token (which may be the old one)
        fresh = (u / lam.clamp(min=1e-300) * self.vocab_size).clamp(max=self.vocab_size - 1).long()
        return torch.where(u < lam, fresh, x0)

    def sample_base(self, u: Tensor) -> Tensor:
        return (u * self.vocab_size).long()

    def prior_kl(self, sigma: Tensor, x0: Tensor) -> Tensor:
        keep, lam = torch.exp(-sigma.double()), -torch.expm1(-sigma.double())
        stays = keep + lam / self.vocab_size
        return stays * torch.log1p((self.vocab_size - 1) * keep) + (1 - stays) * lam.log()

    def conditional_entropies(self, p0: Tensor, sigma: float, per_octave: int) -> Iterator[float]:
        each = torch.xlogy(p0, p0)
        while True:
            keep, moved = math.exp(-sigma), -math.expm1(-sigma) / self.vocab_size
            seen = keep * p0 + moved  # p(x)
            # p(x0|x) is 1 − moved·(1 − p0(x))/p(x) at x0 = x, and moved·p0(x0)/p(x) elsewhere
            same = p0 * (keep + moved) * torch.log1p(-moved * (1 - p0) / seen)
            other = moved * (each.sum() - each + (1 - p0) * (math.log(moved) - seen.log()))
            yield float(-(torch.where(p0 > 0, same, 0.0) + other).sum())
            sigma *= 2 ** (1 / per_octave)

    def check_information(self, what: str) -> None:
        return

    def active(self, x: Tensor) -> Tensor:
        return torch.ones_like(x, dtype=torch.bool)

    def active_share(self, sigma: Tensor) -> Tensor:
        return torch.ones_like(sigma)

    def mean_score(self, z: Tensor, sigma: Tensor, x: Tensor) -> Tensor:
        """s_y = p(x|x)·ρ + p(y|x)/ρ + the rest, with p_σ(y|x0)/p_σ(x|x0) = ρ for x0 = x, 1/ρ for x0 = y, else 1."""
        # float64: 1 − p(x|x) has to differ from ρ, which is 1e-9 at small sigma
        p = z.double().softmax(-1)
        log_rho = self.log_rho(per_position(sigma, x).double())[..., None]
        stays = p.gather(-1, x[..., None])
        gained = p * torch.expm1(-log_rho)
        excess = gained + torch.expm1(log_rho) * stays  # s_y − 1
        # near s_y = 0 that cancels; a sum of positive terms does not: ρ·p(x|x) + (1 − p(x|x)) + gained
        others = zero_at(p, x).sum(-1, keepdim=True)
        small = (log_rho.exp() * stays + others + gained).log()
        log_score = torch.where(excess > -0.5, torch.log1p(excess.clamp(min=-0.5)), small)
        return zero_at(log_score.to(z.dtype), x)

    def posterior_kl(self, z: Tensor, sigma_s: Tensor, sigma_t: Tensor, x: Tensor, x0: Tensor) -> Tensor:
        """p(x_s = y|x, y0) = p(x|y)·p_s(y|y0)/p_t(x|y0), where p(x|y) is the same on both sides and cancels.

        At sigma_s = 0 the divergence is −log p(x0|x), from log_softmax: p(x0|x) itself may underflow.
        """
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
        found = (arrive * terms).sum(-1)
        return torch.where(sigma_s[..., 0] > 0, found, self._token_nats(z, x0)).to(z.dtype)

    def largest_score(self, sigma: Tensor) -> Tensor:
        # p(y|x0)/p(x|x0) is largest for x0 = y
        return torch.log1p(self.vocab_size / torch.expm1(sigma.double()))
