"""Unmasking as many tokens at once as the model is sure of: the number of evaluations follows from the text."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from sedd_cli.core.categorical import inverse_cdf
from sedd_cli.core.conditioning import Conditioning
from sedd_cli.core.random import SAMPLER, Stream
from sedd_cli.core.samplers.base import SAMPLERS, Denoised, Sampler, distribution_option, largest_count
from sedd_cli.core.samplers.confidence import ORDERS, trunk_output
from sedd_cli.core.score import ScoreModel


@dataclass(frozen=True)
class Parallel(Sampler):
    """Each evaluation chooses a token for every MASK of a block and keeps those that `kept` accepts, at least one.

    No sample of the model's distribution: tokens kept together are drawn as if they were independent, and the order in
    which positions are filled depends on the text. Temperature 0 takes the likeliest token.

    Attributes:
        block_length: free positions of a block; blocks are filled one after another. 0: all in one.
    """

    needs_mask: ClassVar[bool] = True
    greedy: ClassVar[bool] = True
    #: How sure the model is of a position, one of `confidence.ORDERS`, for the distribution at temperature 1.
    order: ClassVar[str]
    block_length: int = distribution_option(0)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.block_length < 0:
            raise ValueError(f"block_length must be at least 1, or 0 for a single block, found {self.block_length}")

    @abstractmethod
    def kept(self, sure: Tensor, masked: Tensor) -> Tensor:
        """Which of the positions `masked` [B, L] keep their token, by how sure they are [B, L], −inf elsewhere."""

    def blocks(self, free: Tensor) -> Tensor:
        """The number of the block of each free position of free [B, L]."""
        return (free.cumsum(1) - 1) // (self.block_length or max(1, free.shape[1]))

    def run(self, model: ScoreModel, given: Conditioning, seed: int | Tensor, index: Tensor) -> Iterator[Denoised]:
        self.check(model.graph)
        free, mask, noise = ~given.where, model.graph.mask_state, Stream(seed, SAMPLER, index)
        x, block = given(torch.full_like(given.tokens, mask)), self.blocks(free)
        evaluations, longest = torch.zeros_like(index), largest_count(free)
        for k in range(longest):
            masked = free & (x == mask)
            alive = masked.any(1).nonzero()[:, 0]
            if not len(alive):
                break
            now = torch.where(masked, block, x.shape[1]).amin(1)[alive, None]
            rows = masked[alive] & (block[alive] == now)
            u = noise.uniforms(k, x.shape[1])[0][alive]
            token, sure = self._choices(model, x[alive], rows, u[rows])
            chosen = x[alive].masked_scatter(rows, token)
            surest = torch.full(rows.shape, -torch.inf, dtype=torch.float64, device=x.device)
            kept = self.kept(surest.masked_scatter(rows, sure), rows)
            x = x.index_put((alive,), torch.where(kept, chosen, x[alive]))
            evaluations = evaluations.index_add(0, alive, torch.ones_like(alive))
            yield Denoised(k + 1, longest, x, evaluations)
        if not longest:
            yield Denoised(0, 0, x, evaluations)

    def _choices(self, model: ScoreModel, x: Tensor, rows: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens [R] and how sure they are [R] float64, at the positions `rows` [B, L] of x [B, L]."""
        tokens, sure, block = [], [], model.block(x.device)
        for hidden, uniforms in zip(trunk_output(model, x)[rows].split(block), u.split(block), strict=True):
            p = model.net.head(hidden)[:, : model.graph.vocab_size].softmax(-1, dtype=torch.float64)
            token = inverse_cdf(self.shape(p), uniforms) if self.temperature else p.argmax(-1)
            tokens.append(token)
            sure.append(ORDERS[self.order](p, token, uniforms))
        return torch.cat(tokens), torch.cat(sure)


@SAMPLERS.register
@dataclass(frozen=True)
class Threshold(Parallel):
    """All tokens whose probability reaches a threshold, or the likeliest alone (Fast-dLLM: Wu et al. 2025).

    Probabilities are those of tokens, as in all samplers here. The published code counts MASK among the tokens, and
    does not end where MASK is the likeliest of them.
    """

    name: ClassVar[str] = "threshold"
    order: ClassVar[str] = "probability"
    threshold: float = distribution_option(0.9)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.threshold <= 1:
            raise ValueError(f"threshold must lie in [0, 1], found {self.threshold}")

    def kept(self, sure: Tensor, masked: Tensor) -> Tensor:
        first = torch.zeros_like(masked).scatter(1, sure.argmax(1, keepdim=True), True)
        return masked & ((sure >= self.threshold) | first)


@SAMPLERS.register
@dataclass(frozen=True)
class EntropyBounded(Parallel):
    """The most positions, of the lowest entropies, with Σ H − max H ≤ γ nats (Ben-Hamu et al. 2025).

    Σ H − max H bounds how far tokens drawn independently lie from their joint distribution. γ = 0 fills one position at
    a time, that of the lowest entropy first (several where entropies are 0).
    """

    name: ClassVar[str] = "entropy_bounded"
    order: ClassVar[str] = "entropy"
    entropy_bound: float = distribution_option(0.1)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.entropy_bound < math.inf:
            raise ValueError(f"entropy_bound must be finite and at least 0, found {self.entropy_bound}")

    def kept(self, sure: Tensor, masked: Tensor) -> Tensor:
        entropy, order = (-sure).sort(dim=1, stable=True)  # +inf, last, where nothing is masked
        entropy = entropy.clamp(min=0).nan_to_num(posinf=0.0)
        before = entropy.cumsum(1) - entropy  # of k positions in this order, max H is the last
        before[:, 0] = 0.0
        accepted = before <= self.entropy_bound
        return masked & torch.zeros_like(masked).scatter(1, order, accepted)
