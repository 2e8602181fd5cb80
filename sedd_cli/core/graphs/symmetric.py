"""Graphs with symmetric rates, such as those between neighbours: Q is doubly stochastic, and p_base is uniform.

Rates are scaled so that the token that is left fastest is left at rate 1, as on the other graphs. The slowest mode of
the process decays the more slowly the narrower the neighbourhood: such graphs need more noise than `uniform`.
exp(sigma·Q) is prepared once a run, in three forms:

* up to some noise the sum of `exponential` over powers of I + Q/c, all of them positive, as one product of matrices;
* above it, where no probability is small any more, from the eigenvectors of Q;
* between the two, if the powers would be too many, by squaring.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from sedd_cli.core.categorical import inverse_cdf
from sedd_cli.core.graphs import exponential
from sedd_cli.core.graphs.base import Graph
from sedd_cli.core.graphs.transition import per_position, zero_at

#: Elements of the matrices, and of the table of powers, that are held at once: 128 MiB.
BLOCK = 2**24
#: The largest exponent of an inverse. Beyond e^30, float64 holds no digit of what would be magnified.
MOST_INVERSE = 30.0


class Modes(NamedTuple):
    """The eigenvectors of Q but the constant one, [S, S−1], their rates [S−1], and the noise without small entries."""

    vectors: Tensor
    rates: Tensor
    mixed: float


@dataclass(frozen=True)
class Symmetric(Graph):
    """Base of graphs with symmetric rates on the tokens. Each state has to be reachable from each."""

    @abstractmethod
    def weights(self) -> Tensor:
        """Symmetric rates [N, N] float64, up to a factor. What stands on the diagonal does not matter."""

    # -- what is prepared once -----------------------------------------------------------------------

    @cached_property
    def _spectrum(self) -> tuple[Tensor, Tensor, Tensor]:
        """Q, the rates of its modes in increasing order, the first of them 0, and its eigenvectors."""
        self._check_dense()
        rates = self.weights().fill_diagonal_(0.0)
        rates = rates / rates.sum(0).max()
        Q = rates - rates.sum(0).diag()
        values, vectors = torch.linalg.eigh(-Q)
        if not values[1] > 1e-9 * values[-1]:
            raise ValueError(f"the graph {self.name!r} falls into parts: no token of one becomes a token of the other")
        return Q, values, vectors

    @cached_property
    def rate_matrix(self) -> Tensor:
        return self._spectrum[0]

    @cached_property
    def _modes(self) -> Modes:
        _, rates, vectors = self._spectrum
        modes = Modes(vectors[:, 1:], rates[1:], 0.0)
        mixed = 1 / float(rates[-1])
        while float(_by_modes(modes, torch.tensor([mixed], dtype=torch.float64)).min()) < 1 / (4 * self.states):
            mixed *= 2
        return modes._replace(mixed=mixed)

    @cached_property
    def _powers(self) -> Tensor:
        """(I + Q/c)^k for k = 0, 1, … [K, S, S]: as many as the sum at `_direct` noise needs."""
        return exponential.powers(self.rate_matrix, self._direct, BLOCK)

    @cached_property
    def _direct(self) -> float:
        """The noise up to which the sum is taken; above it a matrix of less noise is squared."""
        return min(self._modes.mixed, exponential.LARGEST / float(-self.rate_matrix.diagonal().min()))

    @cached_property
    def _device_copies(self) -> dict[torch.device, tuple[Tensor, Tensor, Modes]]:
        return {}

    @cached_property
    def _held(self) -> list[Tensor]:
        """The noise levels and the matrices of the last call of `_again`."""
        return []

    def _on(self, device: torch.device) -> tuple[Tensor, Tensor, Modes]:
        """Q, the powers and the modes on a device."""
        if device not in self._device_copies:
            vectors, rates, mixed = self._modes
            modes = Modes(vectors.to(device), rates.to(device), mixed)
            self._device_copies[device] = self.rate_matrix.to(device), self._powers.to(device), modes
        return self._device_copies[device]

    # -- the functions of a graph --------------------------------------------------------------------

    def rate(self, x: Tensor) -> Tensor:
        return self._on(x.device)[0][x]

    def rate_into(self, x: Tensor) -> Tensor:
        return zero_at(self.rate(x), x)

    def transition_matrix(self, sigma: Tensor) -> Tensor:
        levels = sigma.double().reshape(-1)
        Q, powers, modes = self._on(sigma.device)
        direct, mixed = (levels >= 0) & (levels <= self._direct), levels >= modes.mixed
        found = Q.new_empty(len(levels), *Q.shape)
        for chosen, of in (
            (direct, lambda part: exponential.of_powers(powers, Q, part)),
            (mixed & ~direct | (levels < 0), lambda part: _by_modes(modes, part)),
            (~direct & ~mixed & (levels >= 0), lambda part: self._squared(powers, Q, part)),
        ):
            if bool(chosen.any()):
                found[chosen] = of(levels[chosen])
        return found.view(*sigma.shape, *Q.shape)

    def _squared(self, powers: Tensor, Q: Tensor, levels: Tensor) -> Tensor:
        squares = int((levels.max() / self._direct).log2().ceil())
        matrices = exponential.of_powers(powers, Q, levels / 2**squares)
        for _ in range(squares):
            matrices = matrices @ matrices
        return matrices

    def transition(self, sigma: Tensor, x: Tensor) -> Tensor:
        self._check_dense()
        levels, which = sigma.double().unique(return_inverse=True)
        at_once = max(1, BLOCK // self.states**2)
        if len(levels) <= at_once:
            return self._again(levels)[which, x]  # rows of a symmetric matrix
        found = torch.empty(*x.shape, self.states, dtype=torch.float64, device=x.device)
        for first in range(0, len(levels), at_once):
            matrices = self.transition_matrix(levels[first : first + at_once])
            here = (which >= first) & (which < first + at_once)
            found[here] = matrices[which[here] - first, x[here]]
        return found

    def _again(self, levels: Tensor) -> Tensor:
        """`transition_matrix`; those of the last call are kept, since a loss needs what its corruption was drawn by."""
        held = self._held
        if not held or held[0].device != levels.device or not torch.equal(held[0], levels):
            held[:] = levels, self.transition_matrix(levels)
        return held[1]

    def transition_into(self, sigma: Tensor, x: Tensor) -> Tensor:
        return self.transition(per_position(sigma, x).expand(x.shape), x)

    def propagate(self, sigma: Tensor, values: Tensor) -> Tensor:
        # rows of a sequence stand together and have one noise level
        levels, lengths = sigma.double().expand(values.shape[:-1]).reshape(-1).unique_consecutive(return_counts=True)
        flat, counts = values.double().reshape(-1, self.states), lengths.tolist()
        if len(set(counts)) == 1 and len(levels) * self.states**2 <= BLOCK:
            found = flat.view(len(levels), -1, self.states) @ self.transition_matrix(levels)  # it is symmetric
        else:
            parts = zip(flat.split(counts), levels, strict=True)
            found = torch.cat([flat[:0], *[rows @ self.transition_matrix(level) for rows, level in parts]])
        return found.view(values.shape)

    def posterior_kl(self, z: Tensor, sigma_s: Tensor, sigma_t: Tensor, x: Tensor, x0: Tensor) -> Tensor:
        """p(x_s = y|x, y0) = p(x|y)·p_s(y|y0)/p_t(x|y0), where p(x|y) is the same on both sides and cancels."""
        sigma_s, sigma_t = (per_position(sigma, x).double().expand(x.shape) for sigma in (sigma_s, sigma_t))
        reached = self.transition(sigma_t, x)
        truth = self.transition(sigma_s, x0).div_(reached.gather(-1, x0[..., None]))
        posterior = self.transition(sigma_t - sigma_s, x).mul_(truth)
        guess = self.propagate(sigma_s, self._token_distribution(z) / reached)
        # where nothing is left of a probability, its logarithm is not taken
        log_ratio = truth.clamp_(min=1e-300).log_() - guess.clamp(min=1e-300).log()
        found = (posterior * log_ratio).sum(-1)
        return torch.where(sigma_s > 0, found, self._token_nats(z, x0)).to(z.dtype)

    def perturb(self, x0: Tensor, sigma: Tensor, u: Tensor) -> Tensor:
        sigma, rows = per_position(sigma, x0).expand(x0.shape).reshape(-1), max(1, BLOCK // self.states)
        parts = zip(*(value.reshape(-1).split(rows) for value in (sigma, x0, u)), strict=True)
        drawn = [inverse_cdf(self.transition(level, token), w) for level, token, w in parts]
        return torch.cat(drawn).view(x0.shape)

    def base(self) -> Tensor:
        return torch.full((self.states,), 1 / self.states, dtype=torch.float64)

    def sample_base(self, u: Tensor) -> Tensor:
        return (u * self.vocab_size).long()

    def active(self, x: Tensor) -> Tensor:
        self._on(x.device)  # ValueError where it has no dense form
        return torch.ones_like(x, dtype=torch.bool)


def _by_modes(modes: Modes, levels: Tensor) -> Tensor:
    """exp(sigma·Q) for levels [U], right relative to the largest entry: [U, S, S]. Infinite noise gives the limit."""
    kept = torch.exp(-(levels[:, None] * modes.rates).clamp(min=-MOST_INVERSE))
    return 1 / len(modes.vectors) + (modes.vectors * kept[:, None]) @ modes.vectors.T
