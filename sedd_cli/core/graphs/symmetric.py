"""Graphs with symmetric rates, such as those between neighbours: Q is doubly stochastic, and p_base is uniform.

Rates are scaled so that the token that is left fastest is left at rate 1, as on the other graphs. The slowest mode of
the process decays the more slowly the narrower the neighbourhood: such graphs need more noise than `uniform`.
exp(sigma·Q) is prepared once a run, in three forms:

* up to some noise d the sum of `exponential` over powers of I + Q/c, all of them positive, as one product of matrices;
* above it times exp(n·d·Q) with a whole number n, or by squaring where there would be too many of these;
* once no probability is small any more, from the eigenvectors of Q.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from sedd_cli.core.categorical import inverse_cdf
from sedd_cli.core.graphs import exponential
from sedd_cli.core.graphs.base import Graph
from sedd_cli.core.graphs.exponential import Powers
from sedd_cli.core.graphs.transition import per_position, zero_at

#: Elements of the matrices, and of the table of powers, that are held at once: 128 MiB.
BLOCK = 2**24
#: Noise up to which the sum is taken, where that needs no more than BLOCK for what it is multiplied by.
DIRECT = (8.0, 16.0, 32.0)
#: Sets of noise levels whose matrices are kept: a loss takes up to three of them, some of them twice.
HELD = 3
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
    def _powers(self) -> Powers:
        return exponential.powers(self.rate_matrix, self._direct, BLOCK)

    @cached_property
    def _direct(self) -> float:
        """d, the noise up to which the sum is taken: less needs fewer powers and more multiples."""
        most = min(self._modes.mixed, exponential.LARGEST)
        least = self._modes.mixed * self.states**2 / BLOCK
        return next((d for d in DIRECT if least < d < most), most)

    @cached_property
    def _multiples(self) -> Tensor:
        """exp(n·d·Q) [M, S, S] for n = 0 … M−1, up to the noise from which eigenvectors serve; none if too many."""
        count = math.ceil(self._modes.mixed / self._direct)
        if count * self.states**2 > BLOCK:
            return self.rate_matrix.new_empty(0, self.states, self.states)
        one = exponential.of_powers(self._powers, self.rate_matrix, self.rate_matrix.new_tensor([self._direct]))[0]
        found = [torch.eye(self.states, dtype=one.dtype)]
        while len(found) < count:
            found.append(found[-1] @ one)
        return torch.stack(found)

    @cached_property
    def _device_copies(self) -> dict[torch.device, tuple[Tensor, Powers, Tensor, Modes]]:
        return {}

    @cached_property
    def _held(self) -> list[tuple[Tensor, Tensor]]:
        """The noise levels and the matrices of the last calls of `_again`."""
        return []

    def _on(self, device: torch.device) -> tuple[Tensor, Powers, Tensor, Modes]:
        """Q, the powers, the multiples and the modes on a device."""
        if device not in self._device_copies:
            vectors, rates, mixed = self._modes
            modes = Modes(vectors.to(device), rates.to(device), mixed)
            powers = self._powers._replace(matrices=self._powers.matrices.to(device))
            self._device_copies[device] = self.rate_matrix.to(device), powers, self._multiples.to(device), modes
        return self._device_copies[device]

    # -- the functions of a graph --------------------------------------------------------------------

    def rate(self, x: Tensor) -> Tensor:
        return self._on(x.device)[0][x]

    def rate_into(self, x: Tensor) -> Tensor:
        return zero_at(self.rate(x), x)

    def transition_matrix(self, sigma: Tensor) -> Tensor:
        levels = sigma.double().reshape(-1)
        Q, _, _, modes = self._on(sigma.device)
        summed = (levels >= 0) & (levels < modes.mixed)
        found = Q.new_empty(len(levels), *Q.shape)
        for chosen, of in ((summed, self._summed), (~summed, lambda part: _by_modes(modes, part))):
            if bool(chosen.any()):
                found[chosen] = of(levels[chosen])
        return found.view(*sigma.shape, *Q.shape)

    def _summed(self, levels: Tensor) -> Tensor:
        """exp(sigma·Q) for levels [U] from 0 to where eigenvectors serve, right relative to each entry: [U, S, S]."""
        Q, powers, multiples, _ = self._on(levels.device)
        if len(multiples):
            whole = (levels / self._direct).long()
            found = exponential.of_powers(powers, Q, (levels - whole * self._direct).clamp(0.0, self._direct))
            more = whole > 0
            found[more] = found[more] @ multiples[whole[more]]
            return found
        squares = math.ceil(math.log2(max(1.0, float(levels.max()) / self._direct)))
        found = exponential.of_powers(powers, Q, levels / 2**squares)
        for _ in range(squares):
            found = found @ found
        return found

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
        """`transition_matrix`, kept for a while: a loss needs the matrices that its corruption was drawn by."""
        for known, matrices in self._held:
            if known.device == levels.device and torch.equal(known, levels):
                return matrices
        self._held.insert(0, (levels, self.transition_matrix(levels)))
        del self._held[HELD:]
        return self._held[0][1]

    def transition_into(self, sigma: Tensor, x: Tensor) -> Tensor:
        return self.transition(per_position(sigma, x).expand(x.shape), x)

    def propagate(self, sigma: Tensor, values: Tensor) -> Tensor:
        # rows of a sequence stand together and have one noise level
        levels, lengths = sigma.double().expand(values.shape[:-1]).reshape(-1).unique_consecutive(return_counts=True)
        flat, counts = values.double().reshape(-1, self.states), lengths.tolist()
        if len(set(counts)) == 1 and len(levels) * self.states**2 <= BLOCK:
            different, which = levels.unique(return_inverse=True)
            found = flat.view(len(levels), -1, self.states) @ self._again(different)[which]  # it is symmetric
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
