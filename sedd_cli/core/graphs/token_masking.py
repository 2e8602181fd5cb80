"""Graphs whose tokens only turn into MASK, each with a probability of its own."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from sedd_cli.core.graphs.transition import per_position
from sedd_cli.core.graphs.with_mask import WithMask


@dataclass(frozen=True)
class TokenMasking(WithMask):
    """Tokens only turn into MASK, each with the probability that `shares` gives."""

    @cached_property
    def masking(self) -> bool:
        return False  # tokens are not masked alike

    @abstractmethod
    def shares(self, sigma: Tensor) -> tuple[Tensor, Tensor]:
        """The probability that each token has stayed, and that it has become MASK, [..., N] float64 each.

        A negative sigma [...] gives the entries of the inverse matrix.
        """

    def transition(self, sigma: Tensor, x: Tensor) -> Tensor:
        kept, masked = self.shares(sigma)
        here = F.one_hot(x, self.states).double()
        to_mask = (here * _with_mask(masked, 0.0)).sum(-1, keepdim=True)
        return here * _with_mask(kept, 1.0) + to_mask * self._is_mask(x)

    def transition_into(self, sigma: Tensor, x: Tensor) -> Tensor:
        kept, masked = self.shares(per_position(sigma, x).expand(x.shape))
        stayed = F.one_hot(x, self.states) * _with_mask(kept, 1.0)
        return torch.where(x[..., None] == self.mask, _with_mask(masked, 1.0), stayed)

    def propagate(self, sigma: Tensor, values: Tensor) -> Tensor:
        values = values.double()
        kept, masked = self.shares(sigma.double().expand(values.shape[:-1]))
        tokens, at_mask = values[..., : self.vocab_size], values[..., self.vocab_size :]
        return torch.cat([kept * tokens, at_mask + (masked * tokens).sum(-1, keepdim=True)], -1)

    def base(self) -> Tensor:
        return self._is_mask(torch.tensor(0))

    def sample_base(self, u: Tensor) -> Tensor:
        return torch.full_like(u, self.mask, dtype=torch.int64)

    def active(self, x: Tensor) -> Tensor:
        return x == self.mask

    def active_share(self, sigma: Tensor) -> Tensor:
        return self.shares(sigma)[1].mean(-1)

    def normaliser(self, log_score: Tensor, sigma: Tensor) -> Tensor:
        # Σ_y s_y·p(MASK|y)/p(y|y) = Σ_y p(x0 = y|x), which is 1 at every MASK
        kept, masked = self.shares(per_position(sigma, log_score[..., 0]))
        return (log_score[..., : self.vocab_size].double().exp() * masked / kept).sum(-1)

    def largest_score(self, sigma: Tensor) -> Tensor:
        kept, masked = self.shares(sigma)
        return (kept.log() - masked.log()).amax(-1)


@dataclass(frozen=True, eq=False)
class ConstantMasking(TokenMasking):
    """Each token v turns into MASK at a rate of its own: rates [..., N], the same for all positions or one for each."""

    name: ClassVar[str] = "constant_masking"
    rates: Tensor

    def _rates(self, like: Tensor) -> Tensor:
        """The rates in a shape that broadcasts against values [..., N] at positions like [...]."""
        given = self.rates.to(like.device)
        return given.reshape(*given.shape[:-1], *(1,) * (like.dim() - given.dim() + 1), self.vocab_size)

    def shares(self, sigma: Tensor) -> tuple[Tensor, Tensor]:
        exponent = self._rates(sigma) * sigma.double()[..., None]
        return torch.exp(-exponent), -torch.expm1(-exponent)

    def rate(self, x: Tensor) -> Tensor:
        here = F.one_hot(x, self.states).double()
        leaves = (here * _with_mask(self._rates(x), 0.0)).sum(-1, keepdim=True)
        return leaves * (self._is_mask(x) - here)

    def rate_into(self, x: Tensor) -> Tensor:
        rates = _with_mask(self._rates(x), 0.0)
        return torch.where(x[..., None] == self.mask, rates, 0.0)


def _with_mask(tokens: Tensor, at_mask: float) -> Tensor:
    """Values of the tokens [..., N] and one of MASK, [..., S]."""
    return F.pad(tokens, (0, 1), value=at_mask)
