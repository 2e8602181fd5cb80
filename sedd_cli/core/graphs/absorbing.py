"""The absorbing graph: a token stays until it turns into MASK (eq. 16)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from sedd_cli.core.graphs.base import GRAPHS
from sedd_cli.core.graphs.transition import per_position, zero_at
from sedd_cli.core.graphs.with_mask import WithMask


@GRAPHS.register
@dataclass(frozen=True)
class Absorbing(WithMask):
    """N tokens and MASK, which is state N: every token turns into MASK at rate 1.

    With `scale_by_sigma` the network learns log-ratios of clean tokens, and the known factor 1/expm1(sigma) is added
    here (appendix C.1).
    """

    name: ClassVar[str] = "absorbing"
    scale_by_sigma: bool = True

    def rate(self, x: Tensor) -> Tensor:
        leaves = (x != self.mask).double()[..., None]
        rate = torch.zeros(*x.shape, self.states, dtype=torch.float64, device=x.device)
        return rate.scatter(-1, x[..., None], -leaves).scatter_add(-1, torch.full_like(x, self.mask)[..., None], leaves)

    def transition(self, sigma: Tensor, x: Tensor) -> Tensor:
        sigma = torch.where(x == self.mask, 0.0, sigma.double())[..., None]
        p = torch.zeros(*x.shape, self.states, dtype=torch.float64, device=x.device)
        p = p.scatter(-1, x[..., None], torch.exp(-sigma))
        return p.scatter_add(-1, torch.full_like(x, self.mask)[..., None], -torch.expm1(-sigma))

    def rate_into(self, x: Tensor) -> Tensor:
        rate = self.active(x).double()[..., None].expand(*x.shape, self.states)
        return rate.scatter(-1, torch.full_like(x, self.mask)[..., None], 0.0)

    def transition_into(self, sigma: Tensor, x: Tensor) -> Tensor:
        sigma = per_position(sigma, x).double().expand(x.shape)[..., None]
        masked = self.active(x)[..., None]
        others = torch.where(masked, -torch.expm1(-sigma), 0.0).expand(*x.shape, self.states)
        return others.scatter(-1, x[..., None], torch.where(masked, 1.0, torch.exp(-sigma)))

    def propagate(self, sigma: Tensor, values: Tensor) -> Tensor:
        sigma, tokens = sigma.double()[..., None], values.double()[..., : self.vocab_size]
        masked = values.double()[..., self.vocab_size :] - torch.expm1(-sigma) * tokens.sum(-1, keepdim=True)
        return torch.cat([torch.exp(-sigma) * tokens, masked], -1)

    def perturb(self, x0: Tensor, sigma: Tensor, u: Tensor) -> Tensor:
        moved = u < -torch.expm1(-per_position(sigma, x0).double())
        return torch.where(moved, self.mask, x0)

    def sample_base(self, u: Tensor) -> Tensor:
        return torch.full_like(u, self.mask, dtype=torch.int64)

    def check_information(self, what: str) -> None:
        return

    def active(self, x: Tensor) -> Tensor:
        return x == self.mask

    def active_share(self, sigma: Tensor) -> Tensor:
        return -torch.expm1(-sigma)

    def log_score(self, z: Tensor, sigma: Tensor, x: Tensor) -> Tensor:
        if self.scale_by_sigma:
            sigma = per_position(sigma, x)[..., None]
            z = z - torch.expm1(sigma).log().to(z.dtype) - math.log(self.vocab_size)
        return zero_at(z, x)

    def mean_score(self, z: Tensor, sigma: Tensor, x: Tensor) -> Tensor:
        # at MASK, s_y = p(y|x)/expm1(sigma)
        log_E = torch.expm1(per_position(sigma, x)).log().to(z.dtype)[..., None]
        tokens = z[..., : self.vocab_size].log_softmax(-1) - log_E
        return zero_at(torch.cat([tokens, torch.zeros_like(z[..., self.vocab_size :])], dim=-1), x)

    def posterior_kl(self, z: Tensor, sigma_s: Tensor, sigma_t: Tensor, x: Tensor, x0: Tensor) -> Tensor:
        # both distributions leave MASK with the same probability u; they differ in the token alone
        sigma_s, sigma_t = (per_position(sigma, x).double() for sigma in (sigma_s, sigma_t))
        u = (torch.exp(-sigma_s) - torch.exp(-sigma_t)) / -torch.expm1(-sigma_t)
        ce = -z[..., : self.vocab_size].log_softmax(-1).gather(-1, x0[..., None])[..., 0]
        return torch.where(self.active(x), u.to(ce.dtype) * ce, 0.0)

    def normaliser(self, log_score: Tensor, sigma: Tensor) -> Tensor:
        # e^m = expm1(sigma)·Σ_y s_y, which is 1 at every MASK: the clean token is one of the N
        return torch.expm1(sigma.double()) * log_score[..., : self.vocab_size].double().exp().sum(-1)

    def largest_score(self, sigma: Tensor) -> Tensor:
        return -torch.expm1(sigma.double()).log()  # expm1(sigma)·s_y is a probability
