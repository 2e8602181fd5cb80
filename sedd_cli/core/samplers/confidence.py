"""Unmasking where the model is surest: MaskGIT (Chang et al. 2022), as LLaDA and Dream generate."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from sedd_cli.core.categorical import inverse_cdf
from sedd_cli.core.conditioning import Conditioning
from sedd_cli.core.random import SAMPLER, Stream
from sedd_cli.core.samplers.base import SAMPLERS, Denoised, Sampler, distribution_option
from sedd_cli.core.samplers.stepper import MOST_STEPS
from sedd_cli.core.score import ScoreModel
from sedd_cli.errors import not_one_of

#: How sure the model is of a position, [R], from p [R, V], the chosen tokens [R] and uniforms [R].
Order = Callable[[Tensor, Tensor, Tensor], Tensor]


def probability(p: Tensor, token: Tensor, u: Tensor) -> Tensor:
    """The probability of the chosen token (LLaDA; Dream's maskgit_plus)."""
    return p.gather(-1, token[:, None])[:, 0]


def margin(p: Tensor, token: Tensor, u: Tensor) -> Tensor:
    """How far the likeliest token is ahead of the second (Dream's topk_margin; Kim et al. 2025)."""
    first, second = p.topk(min(2, p.shape[-1]), -1).values[:, [0, -1]].unbind(-1)
    return first - second


def certainty(p: Tensor, token: Tensor, u: Tensor) -> Tensor:
    """Minus the entropy (Dream's entropy)."""
    return -torch.special.entr(p).sum(-1)


ORDERS: dict[str, Order] = {
    "probability": probability,
    "margin": margin,
    "entropy": certainty,
    "random": lambda p, token, u: u,
}

#: Times between which Dream's steps lie.
FIRST, LAST = 1.0, 1e-3


def even(left: int, step: int, steps: int, size: int) -> int:
    """As many in each step, earlier steps one more where that does not work out (LLaDA)."""
    return size // steps + (step < size % steps)


def linear(left: int, step: int, steps: int, size: int) -> int:
    """The share 1 − s/t of what is left, rounded down, and all in the last step (Dream, in its float32)."""
    if step == steps - 1:
        return left
    t, s = torch.linspace(FIRST, LAST, steps + 1)[step : step + 2]
    return int(left * (1 - s / t))


#: How many positions a step unmasks: masks that are left, number of the step, of steps, and of positions at first.
QUOTAS: dict[str, Callable[[int, int, int, int], int]] = {"even": even, "linear": linear}


def trunk_output(model: ScoreModel, x: Tensor) -> Tensor:
    """The trunk's output [B, L, D] for x [B, L], at the noise level that masks as large a share as is masked."""
    share = (x == model.graph.mask_state).double().mean(1)
    return model.hidden(x, model.sigma_of_share(share))


@SAMPLERS.register
@dataclass(frozen=True)
class Confidence(Sampler):
    """Each step chooses a token for every MASK and keeps those of which the model is surest.

    No sample of the model's distribution: surest first favours common texts. Temperature 0 takes the likeliest token.

    Attributes:
        steps: steps of all blocks together, at least one a block.
        order: what "surest" means, one of ORDERS, for the distribution at temperature 1.
        quota: how many tokens a step keeps, one of QUOTAS.
        block_length: free positions of a block; blocks are filled one after another. 0: all in one.
        guidance: the weight w of classifier-free guidance: outputs are u + (1 + w)(z − u), where u is what the network
            gives with all given tokens masked. Costs a second evaluation.
        all_rows: MASK competes with the tokens, as in the code of LLaDA, Dream and a2d. A position that gets it stays
            MASK, perhaps to the end.
    """

    name: ClassVar[str] = "confidence"
    needs_mask: ClassVar[bool] = True
    greedy: ClassVar[bool] = True
    steps: int = 128
    order: str = distribution_option("probability")
    quota: str = distribution_option("even")
    block_length: int = distribution_option(0)
    guidance: float = distribution_option(0.0)
    all_rows: bool = distribution_option(False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1 <= self.steps <= MOST_STEPS:
            raise ValueError(f"steps must lie between 1 and {MOST_STEPS:,}, found {self.steps:,}")
        for key, known in (("order", ORDERS), ("quota", QUOTAS)):
            if getattr(self, key) not in known:
                raise ValueError(not_one_of(key, known, getattr(self, key)))
        if self.block_length < 0:
            raise ValueError(f"block_length must be at least 1, or 0 for a single block, found {self.block_length}")
        if not 0 <= self.guidance < math.inf:
            raise ValueError(f"guidance must be finite and at least 0, found {self.guidance}")

    def evaluations_for(self, free: int) -> int:
        return len(self.plan(free)) * (1 + (self.guidance > 0))

    def run(self, model: ScoreModel, given: Conditioning, seed: int | Tensor, index: Tensor) -> Iterator[Denoised]:
        self.check(model.graph)
        free, mask, noise = ~given.where, model.graph.mask_state, Stream(seed, SAMPLER, index)
        x = given(torch.full_like(given.tokens, mask))
        block = (free.cumsum(1) - 1) // (self.block_length or max(1, x.shape[1]))
        plans = [self.plan(count) for count in free.sum(1).tolist()]
        evaluations, steps = torch.zeros_like(index), max(map(len, plans), default=0)
        for k in range(steps):
            now = torch.tensor([plan[k][0] if k < len(plan) else -1 for plan in plans], device=x.device)
            open_ = free & (x == mask) & (block <= now[:, None])
            numbers = [
                min(left, QUOTAS[self.quota](left, *plan[k][1:])) if left else 0  # none is left where a plan is done
                for plan, left in zip(plans, open_.sum(1).tolist(), strict=True)
            ]
            number = torch.tensor(numbers, device=x.device)
            alive = number.nonzero()[:, 0]
            if len(alive):
                u_token, u_order = (u.to(x.device)[alive] for u in noise.uniforms(k, x.shape[1]))
                rows = open_[alive]
                token, sure = self._choices(model, x[alive], given.where[alive], rows, u_token[rows], u_order[rows])
                surest = torch.full(rows.shape, -torch.inf, dtype=torch.float64, device=x.device)
                place = surest.masked_scatter(rows, sure).argsort(dim=1, descending=True, stable=True).argsort(dim=1)
                kept = rows & (place < number[alive, None])
                chosen = x[alive].masked_scatter(rows, token)
                x = x.index_put((alive,), torch.where(kept, chosen, x[alive]))
                evaluations = evaluations.index_add(0, alive, torch.full_like(alive, 1 + (self.guidance > 0)))
            yield Denoised(k + 1, steps, x, evaluations)
        if not steps:
            yield Denoised(0, 0, x, evaluations)

    def plan(self, count: int) -> list[tuple[int, int, int, int]]:
        """The steps for so many free positions: block, number in the block, steps and positions of the block."""
        size = self.block_length or max(1, count)
        blocks = -(-count // size)
        found = []
        for b in range(blocks):
            steps = max(1, even(0, b, blocks, self.steps))
            found += [(b, i, steps, min(size, count - b * size)) for i in range(steps)]
        return found

    def _choices(
        self, model: ScoreModel, x: Tensor, given: Tensor, rows: Tensor, u_token: Tensor, u_order: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Tokens [R] and how sure they are [R] float64, at the positions `rows` [B, L] of x [B, L]."""
        hidden = [trunk_output(model, x)[rows]]
        if self.guidance:
            hidden.append(trunk_output(model, torch.where(given, model.graph.mask_state, x))[rows])
        tokens, sure, block = [], [], model.block(x.device)
        for start in range(0, len(u_token), block):
            part = slice(start, start + block)
            z = model.net.head(hidden[0][part])
            if self.guidance:
                without = model.net.head(hidden[1][part])
                z = without + (1 + self.guidance) * (z - without)
            z = z if self.all_rows else z[:, : model.graph.vocab_size]
            p = z.softmax(-1, dtype=torch.float64)
            token = inverse_cdf(self.shape(p), u_token[part]) if self.temperature else z.argmax(-1)
            tokens.append(token)
            sure.append(ORDERS[self.order](p, token, u_order[part]))
        return torch.cat(tokens), torch.cat(sure)
