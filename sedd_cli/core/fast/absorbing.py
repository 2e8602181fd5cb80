"""Kernels of the absorbing graph."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from sedd_cli.core.fast.base import Kernels, Targets, in_tile
from sedd_cli.core.graphs.absorbing import Absorbing
from sedd_cli.core.graphs.transition import Transition, per_position

#: The normaliser e^m that thinning assumes no position to exceed (`core.fast.thinning`).
LARGEST_NORMALISER = 8.0
#: Noise above which expm1(sigma) is e^sigma in float64, while e^−sigma is far from the smallest number of float32.
LARGE = 40.0


@dataclass(frozen=True)
class AbsorbingKernels(Kernels[Absorbing]):
    """Scores and moves are at MASK only: tokens do not change."""

    def score_entropy(self, log_score: Tensor, sigma: Tensor, x: Tensor, x0: Tensor) -> Tensor:
        """(1/E)·[CE + (e^m − 1 − m)] at MASK and 0 elsewhere: masked cross-entropy plus a penalty on the normaliser.

        E = expm1(sigma), m = log(E·Σ_y s_y), CE = −log(s_{x0}/Σ_y s_y). Equal to the sum of theorem 3.6.
        """
        log_E = torch.expm1(per_position(sigma, x)).log().to(log_score.dtype)
        return self._score_entropy(log_score, log_E, sigma, x, x0)

    def score_entropy_of(self, z: Tensor, sigma: Tensor, x: Tensor, x0: Tensor) -> Tensor:
        if not self.graph.scale_by_sigma:
            return super().score_entropy_of(z, sigma, x, x0)
        # sigma cancels in CE and m (m = LSE(z) − log N), so the scaled scores need not be formed
        return self._score_entropy(z, -math.log(self.graph.vocab_size), sigma, x, x0)

    def _score_entropy(self, logits: Tensor, log_scale: Tensor | float, sigma: Tensor, x: Tensor, x0: Tensor) -> Tensor:
        """From log-scores up to a constant: E·s_y = exp(logits_y + log_scale)."""
        total = logits[..., : self.graph.vocab_size].logsumexp(-1)
        ce = total - logits.gather(-1, x0[..., None])[..., 0]
        # where() alone would let a NaN of an unused position into the gradient: the unused m is set to 0 first
        masked = x == self.graph.mask
        m = torch.where(masked, total + log_scale, 0.0)
        E = torch.expm1(per_position(sigma, x)).to(logits.dtype)
        return torch.where(masked, (ce + (torch.expm1(m) - m)) / E, 0.0)

    def loss_tile(self, z: Tensor, start: int | Tensor, targets: Targets, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Σ_y e^{v_y} − [x0](1 + v_{x0}), v = z − log A; gradient e^{v_y} − [y = x0]; A: e^{z_y}/A is y's mass.

        For CE + e^m − 1 − m = Σ_y e^{v_y} − 1 − v_{x0}: the logarithms of Σ e^z in CE and in m cancel.
        """
        inside, column = in_tile(targets.x0, z, start)
        target = z.sub_(self.log_unit(targets, z.dtype)).gather(1, column)
        rise = z.exp_()
        part = rise.sum(-1) - torch.where(inside, 1 + target, 0.0)[:, 0]
        at_x0 = rise.gather(1, column) - inside.to(rise.dtype)
        return part, rise.to(dtype).scatter_(1, column, at_x0.to(dtype))

    def neutral_output(self, targets: Targets) -> float:
        return -torch.inf

    def row_weight(self, targets: Targets) -> Tensor:
        return 1 / torch.expm1(targets.sigma)

    def log_unit(self, targets: Targets, dtype: torch.dtype) -> Tensor | float:
        # the unit of scores is 1/E, E = expm1(sigma)
        if self.graph.scale_by_sigma:
            return math.log(self.graph.vocab_size)
        return -torch.expm1(targets.sigma).log()[:, None].to(dtype)

    def true_ratios(self, targets: Targets) -> tuple[Tensor, Tensor]:
        return torch.zeros_like(targets.sigma), torch.ones_like(targets.sigma)

    def squared_error_weight(self, targets: Targets) -> Tensor:
        return torch.expm1(targets.sigma) ** -2

    def posterior_kl_share(self, sigma_s: Tensor, sigma_t: Tensor) -> Tensor:
        return (torch.exp(-sigma_s) - torch.exp(-sigma_t)) / -torch.expm1(-sigma_t)  # that of leaving MASK

    def euler(self, log_score: Tensor, x: Tensor, step: Tensor) -> Transition:
        return self._unmask(log_score, x, step)

    def tweedie(self, log_score: Tensor, x: Tensor, delta_sigma: Tensor) -> Transition:
        # p(y) ∝ expm1(Δσ)·s_y, p(MASK) ∝ 1 − expm1(Δσ)·Σ s_y
        return self._unmask_over(log_score, x, delta_sigma)

    def correct(self, log_score: Tensor, x: Tensor, step: Tensor) -> Transition:
        return self._unmask(log_score, x, step)  # the forward process does not move a mask

    def denoise(self, log_score: Tensor, x: Tensor, sigma: Tensor) -> Transition:
        # MASK is forbidden in the end, so every mask moves, whatever its normaliser
        transition = self._unmask_over(log_score, x, sigma)
        return Transition(move_probability=self.graph.active(x).double(), weights=transition.weights)

    def decode(self, log_score: Tensor, x: Tensor, sigma: Tensor) -> Transition:
        return self.denoise(log_score, x, sigma)  # p_sigma(MASK|y) is the same for every token y

    def _unmask_over(self, log_score: Tensor, x: Tensor, delta_sigma: Tensor) -> Transition:
        """`_unmask` by the factor expm1(delta_sigma)."""
        # beside a large factor stand scores that float32 loses: its logarithm, which is delta_sigma, joins theirs
        large = delta_sigma > LARGE
        shift = per_position(torch.where(large, delta_sigma, 0.0), x).to(log_score.dtype)[..., None]
        return self._moves((log_score + shift).exp_(), x, torch.where(large, 1.0, torch.expm1(delta_sigma)))

    def _unmask(self, log_score: Tensor, x: Tensor, factor: Tensor) -> Transition:
        """p(y) = factor·s_y for every token y; the position stays MASK with the remaining probability."""
        return self._moves(log_score.exp(), x, factor)

    def _moves(self, weights: Tensor, x: Tensor, factor: Tensor) -> Transition:
        """`_unmask` by weights s_y, which are changed in place."""
        weights[..., self.graph.mask] = 0.0
        move_probability = per_position(factor, x).double() * weights.sum(-1, dtype=torch.float64)
        return Transition(torch.where(self.graph.active(x), move_probability, 0.0).clamp(max=1.0), weights)

    def euler_bound(self, total: Tensor, x: Tensor, step: Tensor) -> Tensor:
        return step * total

    def tweedie_bound(self, total: Tensor, x: Tensor, delta_sigma: Tensor) -> Tensor:
        return torch.expm1(delta_sigma) * total

    def correct_bound(self, total: Tensor, x: Tensor, step: Tensor) -> Tensor:
        return step * total

    def denoise_bound(self, total: Tensor, x: Tensor, sigma: Tensor) -> Tensor:
        return torch.ones_like(total, dtype=torch.float64)

    def decode_bound(self, total: Tensor, x: Tensor, sigma: Tensor) -> Tensor:
        return self.denoise_bound(total, x, sigma)

    def assumed_total(self, sigma: Tensor) -> Tensor:
        # Σ_y s_y = e^m/E, and training drives e^m to 1
        return LARGEST_NORMALISER / torch.expm1(sigma)

    def mean_total(self, sigma: Tensor) -> Tensor:
        return (1 + 1e-4) / torch.expm1(sigma)
