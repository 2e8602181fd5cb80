"""Remasking: tokens may turn back into MASK and be drawn again (ReMDM: Wang, Schiff, Sahoo, Kuleshov 2025)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from sedd_cli.core.categorical import inverse_cdf
from sedd_cli.core.conditioning import Conditioning
from sedd_cli.core.fast import Kernels
from sedd_cli.core.graphs import Transition
from sedd_cli.core.random import SAMPLER, Stream
from sedd_cli.core.samplers.base import SAMPLERS, Denoised, Sampler, distribution_option
from sedd_cli.core.samplers.euler import euler_step
from sedd_cli.core.samplers.grids import GRIDS
from sedd_cli.core.samplers.stepper import MOST_STEPS, GridStep, Stepper
from sedd_cli.core.score import ScoreModel
from sedd_cli.errors import not_one_of


@SAMPLERS.register
@dataclass(frozen=True)
class ReMDM(Stepper):
    """The capped schedule: from t to s a token turns into MASK with probability ρ = min(η, (1 − α_s)/α_t), α = e^{−σ̄}.

    A MASK is unmasked with probability (α_s − (1 − ρ)α_t)/(1 − α_t), so that as many tokens are unmasked at s as
    without remasking. η = 0 is Tweedie.
    """

    name: ClassVar[str] = "remdm"
    needs_mask: ClassVar[bool] = True
    eta: float = 0.02

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.eta <= 1:
            raise ValueError(f"eta must lie in [0, 1], found {self.eta}")

    def distribution_options(self) -> dict[str, Any]:
        return super().distribution_options() | {"eta": self.eta}

    def remask_probability(self, model: ScoreModel, t: Tensor, s: Tensor) -> Tensor:
        """ρ of a step from t to s, of their shape."""
        return _most(model, t, s).clamp(max=self.eta)

    def transition(self, model: ScoreModel, log_score: Tensor, x: Tensor, t: Tensor, s: Tensor) -> Transition:
        return euler_step(model.graph, log_score, x, self.coefficient(model, t, s))

    def fast_transition(self, kernels: Kernels[Any], step: GridStep, log_score: Tensor, x: Tensor) -> Transition:
        return kernels.euler(log_score, x, step.coefficient.expand(x.shape))

    def move_bound(self, kernels: Kernels[Any], step: GridStep, total: Tensor, x: Tensor) -> Tensor:
        return kernels.euler_bound(total, x, step.coefficient.expand(x.shape))

    def coefficient(self, model: ScoreModel, t: Tensor, s: Tensor) -> Tensor:
        """What s_y is multiplied by, [R]: α_s/α_t − 1 + ρ, where Σ_y s_y = α_t/(1 − α_t) for normalised scores."""
        return torch.expm1(model.schedule(t)[0] - model.schedule(s)[0]) + self.remask_probability(model, t, s)


@SAMPLERS.register
@dataclass(frozen=True)
class ReMDMRescale(ReMDM):
    """The rescaled schedule: ρ = η·min(1, (1 − α_s)/α_t)."""

    name: ClassVar[str] = "remdm_rescale"

    def remask_probability(self, model: ScoreModel, t: Tensor, s: Tensor) -> Tensor:
        return self.eta * _most(model, t, s)


@SAMPLERS.register
@dataclass(frozen=True)
class ReMDMLoop(ReMDM):
    """Half of the steps stay at one time, where about a tenth is left to unmask, and remask with ρ; the others do not.

    The paper's for text, t_on = 0.55, t_off = 0.05, α(t_on) = 0.9. The time is one of the grid: with the linear grid
    and loglinear noise, a tenth is left for 1,024 steps and a quarter for 8. There ρ = min(η, (1 − α)/α), about 0.11 at
    most, so that a step unmasks as many as it remasks; the published code lets η be larger, and unmasks none then.
    """

    name: ClassVar[str] = "remdm_loop"

    def times(self, model: ScoreModel) -> Tensor:
        waiting = self.steps // 2
        moving = self.steps - waiting
        grid = GRIDS[self.grid](model.schedule, moving)
        at = min(round(0.9 * moving), moving - 1)
        return torch.cat([grid[:at], grid[at].expand(waiting + 1), grid[at + 1 :]])

    def remask_probability(self, model: ScoreModel, t: Tensor, s: Tensor) -> Tensor:
        return torch.where(t == s, super().remask_probability(model, t, s), 0.0)


def _most(model: ScoreModel, t: Tensor, s: Tensor) -> Tensor:
    """The largest ρ from t to s: min(1, (1 − α_s)/α_t)."""
    sigma_t, sigma_s = model.schedule(t)[0], model.schedule(s)[0]
    return (-torch.expm1(-sigma_s) * sigma_t.exp()).clamp(max=1.0)


@SAMPLERS.register
@dataclass(frozen=True)
class ReMDMConf(Sampler):
    """Remasking by confidence: ρ = η·η_i·min(1, (1 − α_s)/α_t) with η_i the softmax of −ψ_i over the tokens.

    ψ_i is the probability with which token i was drawn (after temperature and top_p), so the chain has a memory, and
    tokens of which the model was least sure return to MASK first. A MASK is unmasked as without remasking, as in the
    published code. By the normalised model. η = 0 is Tweedie of the normalised model.
    """

    name: ClassVar[str] = "remdm_conf"
    needs_mask: ClassVar[bool] = True
    steps: int = 128
    eta: float = 1.0
    grid: str = distribution_option("linear")

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1 <= self.steps <= MOST_STEPS:
            raise ValueError(f"steps must lie between 1 and {MOST_STEPS:,}, found {self.steps:,}")
        if not 0 <= self.eta <= 1:
            raise ValueError(f"eta must lie in [0, 1], found {self.eta}")
        if self.grid not in GRIDS:
            raise ValueError(not_one_of("grid", GRIDS, self.grid))

    def distribution_options(self) -> dict[str, Any]:
        return super().distribution_options() | {"eta": self.eta, "normalized": True}

    def evaluations_for(self, free: int) -> int:
        return self.steps + 1

    def drawn(self, p: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens [R] by p [R, V] and uniforms u [R], and with what probability each was drawn, ψ [R]."""
        shaped = self.shape(p)
        token = inverse_cdf(shaped, u)
        return token, shaped.gather(-1, token[:, None])[:, 0] / shaped.sum(-1)

    def run(self, model: ScoreModel, given: Conditioning, seed: int | Tensor, index: Tensor) -> Iterator[Denoised]:
        self.check(model.graph)
        mask, noise, free = model.graph.mask_state, Stream(seed, SAMPLER, index), ~given.where
        x = given(torch.full_like(given.tokens, mask))
        drawn_at = torch.full(x.shape, torch.inf, dtype=torch.float64, device=x.device)  # ψ; +inf: never remasked
        t = GRIDS[self.grid](model.schedule, self.steps).to(x.device)
        sigma = model.schedule(t)[0]
        lam, most = -torch.expm1(-sigma), _most(model, t[:-1], t[1:])
        evaluations = torch.zeros_like(index)
        for k in range(self.steps + 1):
            last = k == self.steps
            u_move, u_token = (u.to(x.device) for u in noise.uniforms(k, x.shape[1]))
            masked = free & (x == mask)
            after, psi = x.clone(), drawn_at.clone()
            if not last:
                share = (-drawn_at).softmax(1).nan_to_num(nan=0.0)  # NaN: no token yet
                back = free & ~masked & (u_move < self.eta * share * most[k])
                after, psi = after.masked_fill(back, mask), psi.masked_fill(back, torch.inf)
            rows = masked & (u_move < (1.0 if last else 1 - lam[k + 1] / lam[k]))
            alive = rows.any(1).nonzero()[:, 0]
            if len(alive):
                hidden = model.hidden(x[alive], sigma[k].expand(len(alive)))[rows[alive]]
                tokens, probabilities, block = [], [], model.block(x.device)
                for h, u in zip(hidden.split(block), u_token[rows].split(block), strict=True):
                    p = model.net.head(h)[:, : model.graph.vocab_size].softmax(-1, dtype=torch.float64)
                    token, probability = self.drawn(p, u)
                    tokens.append(token)
                    probabilities.append(probability)
                after = after.masked_scatter(rows, torch.cat(tokens))
                psi = psi.masked_scatter(rows, torch.cat(probabilities))
                evaluations = evaluations.index_add(0, alive, torch.ones_like(alive))
            x, drawn_at = after, psi
            yield Denoised(k + 1, self.steps + 1, x, evaluations)
