"""First-hitting sampling: the continuous-time absorbing process, one token at a time (Zheng et al. 2024)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from sedd_cli.core.categorical import inverse_cdf
from sedd_cli.core.conditioning import Conditioning
from sedd_cli.core.random import BASE, SAMPLER, Stream
from sedd_cli.core.samplers.base import SAMPLERS, Denoised, Sampler, largest_count
from sedd_cli.core.samplers.grids import T_END
from sedd_cli.core.score import ScoreModel


@SAMPLERS.register
@dataclass(frozen=True)
class FirstHitting(Sampler):
    """Exact for the normalised model (m := 0), whose unmasking times do not depend on the network.

    A position is still masked at level λ with probability λ, so of n masks the next one falls at λ·U^{1/n}, at any of
    them. One evaluation a token, and no grid. Where samplers with steps would decode all that is left at once, below
    T_END, it goes on one by one, and the network gets the noise at T_END.
    """

    name: ClassVar[str] = "first_hitting"
    needs_mask: ClassVar[bool] = True

    def distribution_options(self) -> dict[str, Any]:
        return super().distribution_options() | {"normalized": True}

    def run(self, model: ScoreModel, given: Conditioning, seed: int | Tensor, index: Tensor) -> Iterator[Denoised]:
        self.check(model.graph)
        batch, length = given.where.shape
        x = given(model.graph.sample_base(Stream(seed, BASE, index).uniforms(0, length)[0]))
        lam = -torch.expm1(torch.full((batch,), -model.schedule.sigma(1.0), dtype=torch.float64))
        lam, noise, least = lam.to(index.device), Stream(seed, SAMPLER, index), model.schedule.sigma(T_END)
        evaluations, steps = torch.zeros_like(index), largest_count(model.graph.active(x))
        for k in range(steps):
            u_time, u_place = (u[:, 0] for u in noise.uniforms(2 * k, 1))
            u_token = noise.uniforms(2 * k + 1, 1)[0][:, 0]
            masked = model.graph.active(x)
            left = masked.sum(1)
            alive = (left > 0).nonzero()[:, 0]
            lam = torch.where(left > 0, lam * u_time ** (1 / left.clamp(min=1)), lam)
            # the position of the mask number ⌊u·n⌋
            wanted = (u_place * left).long().clamp(max=left.clamp(min=1) - 1)
            place = (masked.cumsum(1) == wanted[:, None] + 1).int().argmax(1)[alive]
            sigma = (-torch.log1p(-lam[alive])).clamp(min=least)
            hidden = model.hidden_of_one(x[alive], sigma, place)
            # y ~ softmax(z): the normaliser of the scores has no effect here
            weights = model.net.head(hidden)[:, : model.graph.vocab_size].softmax(-1, dtype=torch.float64)
            x = x.index_put((alive, place), inverse_cdf(self.shape(weights), u_token[alive]))
            evaluations = evaluations + (left > 0)
            yield Denoised(k + 1, steps, x, evaluations)
        if not steps:
            yield Denoised(0, 0, x, evaluations)
