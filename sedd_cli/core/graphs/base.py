"""A graph is its generator Q (paper, section 2.1 and eqs. 13–16).

`rate` (columns of Q) defines a graph. Everything else that losses, bounds and samplers need follows from it, densely
and in float64: the forward process in `markov_process.py`, scores and the reverse process below. A graph overrides what
it has in closed form; one test holds each override against the form given here.

All methods work position by position. x and x0 are states [...], sigma is total noise of the same shape, or one value
a sequence ([B] beside x [B, L]). Scores and distributions have one more axis, [..., S].
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

import torch
import torch.nn.functional as F
from torch import Tensor

from sedd_cli.core.graphs.markov_process import MarkovProcess
from sedd_cli.core.graphs.transition import per_position, zero_at
from sedd_cli.core.registry import Registry
from sedd_cli.core.tokens import TokenStatistics

GRAPHS = Registry("graph", __package__)


@dataclass(frozen=True)
class Graph(MarkovProcess):
    """A process, and what it makes of a network's output. Fields other than vocab_size are the recipe's options."""

    #: Whether the order of the tokens' ids has a meaning for it.
    ordered: ClassVar[bool] = False
    #: The option that `measure` takes from the training text where a recipe leaves it empty.
    measured: ClassVar[str | None] = None
    #: Whether a network can learn its `exponents`.
    learnable: ClassVar[bool] = False

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

    def between(self, sigma_s: Tensor, sigma_t: Tensor) -> Graph:
        """The graph whose exp((sigma_t − sigma_s)·Q) leads from noise sigma_s to sigma_t, [...] each.

        Its rates are those at sigma_s where the two are equal. Of a process with one generator it is always this graph;
        otherwise `transition` and what follows from it are those from no noise to sigma.
        """
        return self

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
