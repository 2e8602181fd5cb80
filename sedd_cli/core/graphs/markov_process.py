"""A Markov process over the states of one position: its generator, its transition matrices, and drawing by them.

`rate` (columns of Q) defines it. The rest follows, densely and in float64; first of all `transition` (columns of
exp(sigma·Q)).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import torch
from torch import Tensor

from sedd_cli.core.categorical import inverse_cdf
from sedd_cli.core.graphs import exponential
from sedd_cli.core.graphs.transition import per_position, zero_at

#: The dense forms hold matrices of S × S float64; a graph with more states needs closed forms.
MOST_DENSE_STATES = 4096
#: More states would take many minutes: `conditional_entropies` of some 300 noise levels.
MOST_INFORMATION_STATES = 1024


@dataclass(frozen=True)
class MarkovProcess(ABC):
    """A Markov generator over N tokens and S states, and the forward process that it drives."""

    name: ClassVar[str]
    vocab_size: int  # N

    def __post_init__(self) -> None:
        if self.vocab_size < 2:
            raise ValueError(f"vocab_size must be at least 2, found {self.vocab_size}")

    @property
    def states(self) -> int:
        """S, the number of states of a position."""
        return self.vocab_size

    @property
    def mask(self) -> int | None:
        """The state MASK, where there is one. All noise then ends in MASK."""
        return None

    @property
    def mask_state(self) -> int:
        """`mask` of a graph that has one; ValueError otherwise."""
        if self.mask is None:
            raise ValueError(f"the graph {self.name!r} has no MASK")
        return self.mask

    # -- the generator -----------------------------------------------------------------------------

    @abstractmethod
    def rate(self, x: Tensor) -> Tensor:
        """The column of Q at x: rates from x [...] to every state y, [..., S] float64; its sum is 0."""

    def transition(self, sigma: Tensor, x: Tensor) -> Tensor:
        """The column of exp(sigma·Q) at x: p_sigma(y|x) for every y, [..., S] float64 on the device of x.

        sigma [...] has the shape of x. It may be 0; infinite, which gives the limit (`base` uses it); or negative,
        which gives the inverse matrix. For sigma ≥ 0 no entry is negative, and small entries have small errors relative
        to themselves, because ratios of them are taken.
        """
        endless = sigma.isposinf()
        p = exponential.columns(self.rate_matrix.to(x.device), torch.where(endless, 0.0, sigma.double()), x)
        if not bool(endless.any()):
            return p
        return torch.where(endless[..., None], self._limit.to(x.device)[:, x].movedim(0, -1), p)

    # -- rows of the two matrices, and products with them ------------------------------------------

    @cached_property
    def rate_matrix(self) -> Tensor:
        """Q [S, S] float64: entry (y, x) is the rate from x to y."""
        self._check_dense()
        return self.rate(torch.arange(self.states)).T

    @cached_property
    def _limit(self) -> Tensor:
        return exponential.limit(self.rate_matrix)

    def transition_matrix(self, sigma: Tensor) -> Tensor:
        """exp(sigma·Q) for sigma [...]: [..., S, S] float64, entry (y, x) is p(y|x)."""
        self._check_dense()
        states = torch.arange(self.states, device=sigma.device).expand(*sigma.shape, -1)
        return self.transition(sigma.double()[..., None].expand(states.shape), states).transpose(-1, -2)

    def _matrices(self, sigma: Tensor) -> tuple[Tensor, Tensor]:
        """`transition_matrix` of each different value of sigma [...], [U, S, S], and which one is whose, [...]."""
        different, which = sigma.double().unique(return_inverse=True)
        return self.transition_matrix(different), which

    def rate_into(self, x: Tensor) -> Tensor:
        """Q(x, y) for every y ≠ x: rates into x [...] from y, [..., S] float64, 0 at y = x."""
        return zero_at(self.rate_matrix.to(x.device)[x], x)

    def transition_into(self, sigma: Tensor, x: Tensor) -> Tensor:
        """The row of exp(sigma·Q) at x: p_sigma(x|y) for every y, [..., S] float64."""
        matrices, which = self._matrices(per_position(sigma, x).expand(x.shape))
        return matrices[which, x]

    def propagate(self, sigma: Tensor, values: Tensor) -> Tensor:
        """exp(sigma·Q) · values for values [..., S], float64; a negative sigma [...] undoes a positive one."""
        matrices, which = self._matrices(sigma.expand(values.shape[:-1]))
        flat, which = values.double().reshape(-1, self.states), which.reshape(-1)
        found = torch.empty_like(flat)
        for number, matrix in enumerate(matrices):
            rows = (which == number).nonzero()[:, 0]
            found = found.index_copy(0, rows, flat[rows] @ matrix.T)
        return found.view(values.shape)

    def log_ratio(self, sigma: Tensor, x: Tensor, x0: Tensor) -> Tensor:
        """log r_y = log p_sigma(y|x0) − log p_sigma(x|x0) for every y, [..., S] float64; −inf where p(y|x0) = 0."""
        log_p = self.transition(per_position(sigma, x).double().expand(x0.shape), x0).log()
        return log_p - log_p.gather(-1, x[..., None])

    # -- the forward process -----------------------------------------------------------------------

    def log_probability(self, sigma: Tensor, x: Tensor, x0: Tensor) -> Tensor:
        """log p_sigma(x|x0) of every position, [...] float64."""
        p = self.transition(per_position(sigma, x).double().expand(x0.shape), x0)
        return p.gather(-1, x[..., None])[..., 0].log()

    def perturb(self, x0: Tensor, sigma: Tensor, u: Tensor) -> Tensor:
        """Draw x ~ p_sigma(·|x0) for x0 [...] by one float64 uniform u [...] a position (eqs. 13–16)."""
        p = self.transition(per_position(sigma, x0).double().expand(x0.shape), x0)
        return inverse_cdf(p.reshape(-1, self.states), u.reshape(-1)).view(x0.shape)

    def base(self) -> Tensor:
        """p_base [S] float64: the distribution that all tokens tend to under infinite noise."""
        return self.transition(torch.tensor([torch.inf], dtype=torch.float64), torch.tensor([0]))[0]

    def sample_base(self, u: Tensor) -> Tensor:
        """Draw from p_base by uniforms u [...]: int64 of u's shape."""
        weights = self.base().to(u.device).expand(u.numel(), -1)
        return inverse_cdf(weights, u.reshape(-1)).view(u.shape)

    def prior_kl(self, sigma: Tensor, x0: Tensor) -> Tensor:
        """D_KL(p_sigma(·|x0) ‖ p_base) for x0 [...], sigma of its shape: nats [...] float64."""
        p, base = self.transition(sigma.double(), x0), self.base().to(x0.device)
        # log1p keeps the digits of small differences; beside base, a small p would be lost in it
        log_ratio = torch.where(p > base / 2, torch.log1p((p - base) / base), (p / base).log())
        return torch.where(p > 0, p * log_ratio, 0.0).sum(-1)

    def conditional_entropies(self, p0: Tensor, sigma: float, per_octave: int) -> Iterator[float]:
        """H(x0|x) in nats of clean tokens x0 ~ p0 [N] float64, at noise levels in a geometric series without end.

        They are sigma·2^{k/per_octave} for k = 0, 1 and so on. The mutual information of a token and its clean one is
        H(p0) − H(x0|x). Matrices are squared from octave to octave; no entry is negative, so small ones keep their
        digits.
        """
        octave = [self.transition_matrix(p0.new_tensor(sigma * 2 ** (k / per_octave))) for k in range(per_octave)]
        while True:
            for k, matrix in enumerate(octave):
                joint = matrix[:, : self.vocab_size] * p0
                seen = joint.sum(-1, keepdim=True)  # p(x)
                yield float(-torch.xlogy(joint, joint / torch.where(seen > 0, seen, 1.0)).sum())
                square = matrix @ matrix
                octave[k] = square / square.sum(0)

    def check_information(self, what: str) -> None:
        """ValueError where `what`, which takes some 300 of `conditional_entropies`, would take too long."""
        if self.states > MOST_INFORMATION_STATES:
            raise ValueError(
                f"{what} would take some 300 products of dense matrices of {self.states:,} × {self.states:,} on the "
                f"graph {self.name}, which has no closed form of it: at most {MOST_INFORMATION_STATES:,} states"
            )

    def active(self, x: Tensor) -> Tensor:
        """Whether the score at x [...] is ever used, because some rate leads into x. Losses skip other positions."""
        return self.rate_into(x).sum(-1) > 0

    def active_share(self, sigma: Tensor) -> Tensor:
        """The expected share of active positions at noise sigma [...], over evenly distributed tokens."""
        active = self.active(torch.arange(self.states, device=sigma.device))
        if bool(active.all()):
            return torch.ones_like(sigma, dtype=torch.float64)
        tokens = torch.arange(self.vocab_size, device=sigma.device).expand(*sigma.shape, -1)
        p = self.transition(sigma.double()[..., None].expand(tokens.shape), tokens).mean(-2)
        return p @ active.double()

    @cached_property
    def only_masks(self) -> bool:
        """Whether tokens turn into MASK and never change otherwise, so that the score matters at MASK alone."""
        return self.mask is not None and not bool(self.active(torch.arange(self.vocab_size)).any())

    @cached_property
    def masking(self) -> bool:
        """Whether `only_masks`, and every token is MASK with the same probability 1 − e^{−sigma}: at rate 1."""
        if not self.only_masks:
            return False
        rates = self.rate_into(torch.tensor(self.mask_state))[: self.vocab_size]
        return bool(((rates - 1).abs() < 1e-12).all())

    def check_masking(self, what: str) -> None:
        """ValueError unless `masking`, which `what` needs."""
        if self.masking:
            return
        if self.only_masks:
            raise ValueError(f"{what} needs a graph that masks all tokens alike, at rate 1, {self.name} does not")
        raise ValueError(f"{what} needs a graph with MASK from which tokens do not return, {self.name} is none")

    def _check_dense(self) -> None:
        if self.states > MOST_DENSE_STATES:
            raise ValueError(
                f"the graph {self.name!r} with {self.states:,} states has no closed form here, and a dense matrix of "
                f"{self.states**2 * 8 / 2**30:,.1f} GiB is too large: at most {MOST_DENSE_STATES:,} states"
            )
