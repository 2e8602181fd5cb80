"""The loss of D3PM on the uniform graph as a fused loss."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from sedd_cli.core.fast.base import TileLoss


@dataclass(frozen=True)
class UniformPosteriorTiles(TileLoss):
    """`Uniform.posterior_kl` of some rows, plus `cross_entropy` times −log softmax(z)[x0].

    x and x0 int64, sigma_s < sigma_t and cross_entropy float64, [R] each. Computed in float64: the probabilities of
    staying on both sides are nearly 1, and their logarithms nearly cancel.
    """

    whole_rows: ClassVar[bool] = True
    x: Tensor
    x0: Tensor
    sigma_s: Tensor
    sigma_t: Tensor
    vocab_size: int
    cross_entropy: Tensor

    @property
    def columns(self) -> int:
        return self.vocab_size

    def __getitem__(self, rows: slice | Tensor) -> UniformPosteriorTiles:
        return UniformPosteriorTiles(
            self.x[rows],
            self.x0[rows],
            self.sigma_s[rows],
            self.sigma_t[rows],
            self.vocab_size,
            self.cross_entropy[rows],
        )

    def tile(self, z: Tensor, start: int | Tensor, lse: Tensor | None, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Σ_y c_y·log(truth_y/guess_y), c_y = p(x|y)·truth_y, guess linear in p = softmax(z).

        guess_y = e^{−sigma_s}·w_y + moved_s·Σw with w_y = p_y/p_t(x|y); both sides are without the factor p(x|y), which
        cancels in the ratio. With q = d/dp the gradient is p·(q − Σ p·q).
        """
        N, width = self.vocab_size, z.shape[1]
        x, x0 = self.x[:, None], self.x0[:, None]
        sigmas = self.sigma_s[:, None], self.sigma_t[:, None], (self.sigma_t - self.sigma_s)[:, None]
        moved_s, moved_t, moved = (-torch.expm1(-sigma) / N for sigma in sigmas)  # to one other token
        kept_s, kept_t, kept = (torch.exp(-s) + m for s, m in zip(sigmas, (moved_s, moved_t, moved), strict=True))
        kept_tokens, is_x0 = torch.exp(-sigmas[0]), x == x0
        log_p = z[:, :N].to(torch.float64, copy=True)
        log_p.sub_(log_p.logsumexp(-1, keepdim=True))
        p = log_p.exp()
        p_x = p.gather(1, x)
        total = p.scatter(1, x, 0.0).sum(-1, keepdim=True) / moved_t + p_x / kept_t  # Σw
        slope, slope_x = kept_tokens / moved_t, kept_tokens / kept_t
        guess = (p * slope).scatter_(1, x, p_x * slope_x).add_(moved_s * total).clamp_(min=1e-300)
        # the three different values of truth and of c
        seen = torch.where(is_x0, kept_t, moved_t)
        truth, truth_x0 = moved_s / seen, kept_s / seen
        truth_x = torch.where(is_x0, truth_x0, truth)
        c, c_x0, c_x = moved * truth, torch.where(is_x0, 0.0, moved * truth_x0), kept * truth_x
        log_guess, guess_x, guess_x0 = guess.log(), guess.gather(1, x), guess.gather(1, x0)
        count = N - 2 + is_x0.double()  # of tokens that are neither
        others = log_guess.sum(-1, keepdim=True) - guess_x.log() - torch.where(is_x0, 0.0, guess_x0.log())
        part = torch.xlogy(c * count, truth) - c * others
        part = part + torch.xlogy(c_x0, truth_x0) - c_x0 * guess_x0.log()
        part = part + torch.xlogy(c_x, truth_x) - c_x * guess_x.log()
        share = self.cross_entropy[:, None]
        part = part - share * log_p.gather(1, x0)
        # −d/d guess, at x last, which may be x0
        pull = (c / guess).scatter_(1, x0, c_x0 / guess_x0).scatter_(1, x, c_x / guess_x)
        through_total = pull.sum(-1, keepdim=True) * moved_s * (1 / moved_t - 1 / kept_t)
        q = (-slope * pull).scatter_(1, x, through_total - slope_x * (c_x / guess_x))
        gradient = (p * (q + (share - (p * q).sum(-1, keepdim=True)))).scatter_add_(1, x0, -share)
        return part[:, 0].to(z.dtype), F.pad(gradient.to(dtype), (0, width - N))

    def row_weight(self) -> Tensor:
        return torch.ones_like(self.sigma_t)

    def neutral_output(self) -> float:
        return 0.0
