"""A graph is its generator Q (paper, section 2.1 and eqs. 13–16).

`rate` (columns of Q) defines a graph. Everything else that losses, bounds and samplers need follows from it, densely
and in float64, below; first of all `transition` (columns of exp(sigma·Q)). A graph overrides what it has in closed
form; one test holds each override against the form given here.

All methods work position by position. x and x0 are states [...], sigma is total noise of the same shape, or one value
a sequence ([B] beside x [B, L]). Scores and distributions have one more axis, [..., S].
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, Self

import torch
import torch.nn.functional as F
from torch import Tensor

from sedd_cli.core.categorical import inverse_cdf
from sedd_cli.core.graphs import exponential
from sedd_cli.core.graphs.transition import per_position, zero_at
from sedd_cli.core.registry import Registry
from sedd_cli.core.tokens import TokenStatistics

GRAPHS = Registry("graph", __package__)

#: The dense forms hold matrices of S × S float64; a graph with more states needs closed forms.
MOST_DENSE_STATES = 4096


@dataclass(frozen=True)
class Graph(ABC):
    """A Markov generator over N tokens and S states. Fields other than vocab_size are the recipe's options."""

    name: ClassVar[str]
    #: Whether the order of the tokens' ids has a meaning for it.
    ordered: ClassVar[bool] = False
    #: The option that `measure` takes from the training text where a recipe leaves it empty.
    measured: ClassVar[str | None] = None
    #: Whether a network can learn its `exponents`.
    learnable: ClassVar[bool] = False
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

    @property
    def exponents(self) -> Tensor:
        """w [N] float64 of a learnable graph, which has masked token v with probability λ^{w_v}."""
        raise ValueError(f"the graph {self.name!r} has no exponents to be learned")

    def learned(self, parameters: Tensor) -> Self:
        """The graph with the exponents that parameters θ [N] of a network give; of a learnable graph."""
        raise ValueError(f"the graph {self.name!r} has no exponents to be learned")

    def measure(self, tokens: TokenStatistics) -> Self:
        """The graph with what it measures of the training text; ValueError where that is impossible."""
        return self

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

    def between(self, sigma_s: Tensor, sigma_t: Tensor) -> Graph:
        """The graph whose exp((sigma_t − sigma_s)·Q) leads from noise sigma_s to sigma_t, [...] each.

        Its rates are those at sigma_s where the two are equal. Of a process with one generator it is always this graph;
        otherwise `transition` and what follows from it are those from no noise to sigma.
        """
        return self

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

    @property
    def masking(self) -> bool:
        """Whether `only_masks`, and every token is MASK with the same probability 1 − e^{−sigma}."""
        return self.only_masks

    def check_masking(self, what: str) -> None:
        """ValueError unless `masking`, which `what` needs."""
        if self.masking:
            return
        if self.only_masks:
            raise ValueError(f"{what} needs a graph that masks all tokens alike, {self.name} does not")
        raise ValueError(f"{what} needs a graph with MASK from which tokens do not return, {self.name} is none")

    # -- what the network's output means -----------------------------------------------------------

    def log_score(self, z: Tensor, sigma: Tensor, x: Tensor) -> Tensor:
        """Network output z [..., S] as log-scores [..., S], 0 at the current state (appendix C.1)."""
        return zero_at(z, x)

    def mean_score(self, z: Tensor, sigma: Tensor, x: Tensor) -> Tensor:
        """Log-scores [..., S] of a network whose outputs z are logits of the clean token (mean parametrization).

        s_y = Σ_{x0} p(x0|x)·p_sigma(y|x0)/p_sigma(x|x0) with p(x0|x) = softmax(z) over the tokens.
        """
        sigma = per_position(sigma, x).double().expand(x.shape)
        score = self.propagate(sigma, self._token_distribution(z) / self._reached(sigma, x))
        return zero_at(score.log().to(z.dtype), x)

    def plug_in_score(self, z: Tensor, sigma: Tensor, x: Tensor) -> Tensor:
        """Log-scores [..., S] of a network that puts a distribution in the place of the clean token.

        s_y = p_sigma(y|q)/p_sigma(x|q) with p_sigma(·|q) = Σ_{x0} q(x0)·p_sigma(·|x0), q = softmax(z) over the tokens.
        They are the true scores where q is the distribution of the clean token given all other positions (Schiff et
        al. 2024, Sahoo et al. 2025, von Rütte et al. 2025). At MASK they are those of `mean_score`.
        """
        sigma = per_position(sigma, x).double().expand(x.shape)
        log_p = self.propagate(sigma, self._token_distribution(z)).log()
        return zero_at((log_p - log_p.gather(-1, x[..., None])).to(z.dtype), x)

    # -- the reverse process -----------------------------------------------------------------------

    def reverse_rates(self, log_score: Tensor, x: Tensor) -> Tensor:
        """Q(x, y)·s_y for every y ≠ x, [..., S], 0 at y = x: the rates of the reverse process (definition 3.5)."""
        return self.rate_into(x) * log_score.exp()

    def posterior(self, p0: Tensor, sigma_s: Tensor, sigma_t: Tensor, x: Tensor) -> Tensor:
        """p(x_s|x_t = x) for x0 ~ p0 [..., N] given x_t, sigma_s < sigma_t: [..., S] float64 (D3PM, eq. 3).

        Σ_{x0} p0(x0)·p_s(x_s|x0)·p(x|x_s)/p_t(x|x0), with p(x|x_s) the transition over sigma_t − sigma_s.
        """
        sigma_s, sigma_t = (per_position(sigma, x).double().expand(x.shape) for sigma in (sigma_s, sigma_t))
        p0 = F.pad(p0.double(), (0, self.states - self.vocab_size))
        at_s = self.propagate(sigma_s, p0 / self._reached(sigma_t, x))
        return at_s * self.between(sigma_s, sigma_t).transition_into(sigma_t - sigma_s, x)

    def posterior_kl(self, z: Tensor, sigma_s: Tensor, sigma_t: Tensor, x: Tensor, x0: Tensor) -> Tensor:
        """D_KL(p(x_s|x_t = x, x0) ‖ p_θ(x_s|x_t = x)), nats [...] (Austin et al. 2021, section 3.3).

        p_θ takes p(x0|x) = softmax(z) over the tokens. 0 where x is not active. At sigma_s = 0 it is −log p(x0|x), from
        log_softmax: p(x0|x) itself may underflow.
        """
        truth = self.posterior(F.one_hot(x0, self.vocab_size), sigma_s, sigma_t, x)
        guess = self.posterior(self._token_distribution(z)[..., : self.vocab_size], sigma_s, sigma_t, x)
        terms = torch.xlogy(truth, truth) - torch.xlogy(truth, guess.clamp(min=1e-300))
        found = torch.where(per_position(sigma_s, x) > 0, terms.sum(-1), self._token_nats(z, x0))
        return torch.where(self.active(x), found, 0.0).to(z.dtype)

    # -- properties of true scores, by which a model is checked ------------------------------------

    def normaliser(self, log_score: Tensor, sigma: Tensor) -> Tensor:
        """A number [...] float64 whose mean over noisy texts is 1 for the true score, at active positions.

        Here the mean score over all states: Σ_x p(x)·(1/S) Σ_y p(y)/p(x) = 1, y over the states of one position.
        """
        return log_score.double().exp().mean(-1)

    def largest_score(self, sigma: Tensor) -> Tensor:
        """The log of the largest score that any distribution of clean texts has at noise sigma [...], float64.

        p(y)/p(x) is a mean of p(y|x0)/p(x|x0) over x0, so the largest of these bounds it.
        """
        p = self.transition_matrix(sigma)[..., : self.vocab_size]
        return (p.amax(-2) / torch.where(p > 0, p, torch.inf).amin(-2)).amax(-1).log()

    # -- helpers -----------------------------------------------------------------------------------

    def _token_distribution(self, z: Tensor) -> Tensor:
        """softmax(z) over the tokens, 0 at other states, [..., S] float64."""
        return F.pad(z[..., : self.vocab_size].double().softmax(-1), (0, self.states - self.vocab_size))

    def _token_nats(self, z: Tensor, x0: Tensor) -> Tensor:
        """−log softmax(z) over the tokens at x0 [...], float64."""
        return -z[..., : self.vocab_size].double().log_softmax(-1).gather(-1, x0[..., None])[..., 0]

    def _reached(self, sigma: Tensor, x: Tensor) -> Tensor:
        """p_sigma(x|x0) for every x0, [..., S]; 1 where it is 0, for division."""
        p = self.transition_into(sigma, x)
        return torch.where(p > 0, p, 1.0)

    def _check_dense(self) -> None:
        if self.states > MOST_DENSE_STATES:
            raise ValueError(
                f"the graph {self.name!r} with {self.states:,} states has no closed form here, and a dense matrix of "
                f"{self.states**2 * 8 / 2**30:,.1f} GiB is too large: at most {MOST_DENSE_STATES:,} states"
            )
