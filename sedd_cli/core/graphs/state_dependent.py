"""State-dependent masking: when a token turns into MASK depends on which token it is (Shi et al. 2024, section 6).

Where the absorbing graph has masked a token with probability λ = 1 − e^{−sigma}, this one has masked token v with
probability λ_v = λ^{w_v}. Under `loglinear` noise λ = (1 − ε)t, so α_v = 1 − λ_v is GenMD4's polynomial schedule
1 − t^{w_v}. All tokens are MASK at infinite noise. A token with a large exponent is masked late, and is among the
first that appear in sampling.

No single generator gives this process: how fast v turns into MASK changes with noise in a way of its own. `between`
gives the rates at one noise level, and those that lead from one level to another.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import ClassVar, Self

import torch
import torch.nn.functional as F
from torch import Tensor

from sedd_cli.core.graphs.base import GRAPHS
from sedd_cli.core.graphs.token_masking import ConstantMasking, TokenMasking
from sedd_cli.core.graphs.transition import per_position, zero_at


@GRAPHS.register
@dataclass(frozen=True)
class StateDependent(TokenMasking):
    """Token v is MASK with probability λ^{w_v}. All exponents are `power`, unless a network has learned them."""

    name: ClassVar[str] = "state_dependent"
    learnable: ClassVar[bool] = True
    power: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.power < math.inf:
            raise ValueError(f"power must be positive and finite, found {self.power}")

    def learned(self, parameters: Tensor) -> Self:
        """The graph with w_v = power·e^{θ_v} for parameters θ [N]; it follows them as they are trained."""
        made = dataclasses.replace(self)
        object.__setattr__(made, "_theta", parameters)  # no field: a recipe states fields
        return made

    @property
    def exponents(self) -> Tensor:
        theta: Tensor | None = getattr(self, "_theta", None)
        w = torch.full((self.vocab_size,), self.power, dtype=torch.float64)
        return w if theta is None else self.power * theta.double().exp()

    # -- the process since no noise ----------------------------------------------------------------

    def shares(self, sigma: Tensor) -> tuple[Tensor, Tensor]:
        exponent = log_lambda(sigma.double().abs())[..., None] * self.exponents.to(sigma.device)
        kept, masked = -torch.expm1(exponent), exponent.exp()
        back = (sigma < 0)[..., None]
        return torch.where(back, 1 / kept, kept), torch.where(back, -masked / kept, masked)

    def log_probability(self, sigma: Tensor, x: Tensor, x0: Tensor) -> Tensor:
        exponent = log_lambda(per_position(sigma, x)) * self.exponents.to(x.device)[x0]
        masked = x == self.mask
        stayed = torch.where(x == x0, log_1_minus_exp(torch.where(masked, -1.0, exponent)), -torch.inf)
        return torch.where(masked, exponent, stayed)

    def perturb(self, x0: Tensor, sigma: Tensor, u: Tensor) -> Tensor:
        exponent = log_lambda(per_position(sigma, x0)) * self.exponents.detach().to(x0.device)[x0]
        return torch.where(u < exponent.exp(), self.mask, x0)

    def mean_score(self, z: Tensor, sigma: Tensor, x: Tensor) -> Tensor:
        # at MASK, s_y = p(y|x)·α_y/λ_y
        kept, masked = self.shares(per_position(sigma, x).expand(x.shape))
        tokens = z[..., : self.vocab_size].log_softmax(-1) + (kept.log() - masked.log()).to(z.dtype)
        return zero_at(F.pad(tokens, (0, 1)), x)

    def check_information(self, what: str) -> None:
        raise ValueError(f"{what} needs transitions that are known before training, the graph {self.name} learns them")

    # -- between two noise levels ------------------------------------------------------------------

    def between(self, sigma_s: Tensor, sigma_t: Tensor) -> ConstantMasking:
        sigma_s, sigma_t = sigma_s.double(), sigma_t.double()
        w, delta = self.exponents.to(sigma_t.device), (sigma_t - sigma_s)[..., None]
        log_s, log_t = (log_lambda(sigma)[..., None] for sigma in (sigma_s, sigma_t))
        before, after = (log_1_minus_exp(w * log_lam) for log_lam in (log_s, log_t))  # log α
        # −d log α/dsigma with dλ/dsigma = e^{−sigma}
        here = w * torch.exp((w - 1) * log_t - sigma_t[..., None] - after)
        apart = (before - after) / torch.where(delta > 0, delta, 1.0)
        return ConstantMasking(self.vocab_size, torch.where(delta > 0, apart, here))

    def posterior(self, p0: Tensor, sigma_s: Tensor, sigma_t: Tensor, x: Tensor) -> Tensor:
        # a MASK whose clean token is y was MASK at sigma_s with probability (λ_s/λ_t)^{w_y}
        log_s, log_t = (log_lambda(per_position(sigma, x).expand(x.shape)) for sigma in (sigma_s, sigma_t))
        exponent = (log_s - log_t)[..., None] * self.exponents.to(x.device)
        p0 = p0.double()
        still = (exponent.exp() * p0).sum(-1, keepdim=True)
        at_mask = torch.cat([-torch.expm1(exponent) * p0, still], -1)
        stayed = F.one_hot(x, self.states) * F.pad(p0, (0, 1))
        return torch.where(x[..., None] == self.mask, at_mask, stayed)

    # -- one generator, where all exponents are 1 --------------------------------------------------

    def rate(self, x: Tensor) -> Tensor:
        return self._one_generator().rate(x)

    def rate_into(self, x: Tensor) -> Tensor:
        return self._one_generator().rate_into(x)

    def _one_generator(self) -> ConstantMasking:
        w = self.exponents.detach()
        if not bool((w == 1).all()):
            raise ValueError(f"the rates of the graph {self.name!r} depend on noise: take those of `between`")
        return ConstantMasking(self.vocab_size, w)


def log_lambda(sigma: Tensor) -> Tensor:
    """log λ = log(1 − e^{−sigma}) for sigma ≥ 0, float64."""
    return log_1_minus_exp(-sigma.double())


def log_1_minus_exp(x: Tensor) -> Tensor:
    """log(1 − e^x) for x ≤ 0, with small errors at both ends."""
    small = x < -math.log(2)
    far, near = torch.where(small, x, -1.0), torch.where(small, -1.0, x)  # or NaN would enter the gradient
    return torch.where(small, torch.log1p(-torch.exp(far)), torch.log(-torch.expm1(near)))
