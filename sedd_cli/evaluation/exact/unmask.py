"""The exact distribution of samplers that draw a token for every MASK and keep some: all draws are enumerated."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from sedd_cli.core.conditioning import Conditioning
from sedd_cli.core.samplers.confidence import ORDERS, QUOTAS, Confidence, trunk_output
from sedd_cli.core.samplers.parallel import Parallel
from sedd_cli.core.score import ScoreModel
from sedd_cli.evaluation.exact.states import BATCH, Distribution, sequences, start_distribution

#: Draws that are held at once.
MOST_DRAWS = 1 << 18


def confidence_distribution(model: ScoreModel, sampler: Confidence, clamp: Conditioning) -> Distribution | None:
    """Of `Confidence`; None with guidance or where MASK competes with the tokens."""
    if sampler.guidance or sampler.all_rows:
        return None
    return _unmask(model, sampler, _Quotas(sampler, clamp), clamp)


def parallel_distribution(model: ScoreModel, sampler: Parallel, clamp: Conditioning) -> Distribution:
    """Of `Parallel`."""
    return _unmask(model, sampler, _Accepted(sampler, clamp), clamp)


@dataclass(frozen=True)
class _Quotas:
    """The surest of `Confidence`: as many as its plan says in each step."""

    sampler: Confidence
    clamp: Conditioning

    def steps(self) -> Iterator[tuple[int, int, int, int]]:
        yield from self.sampler.plan(int((~self.clamp.where).sum()))

    def open(self, masked: Tensor, step: tuple[int, int, int, int]) -> Tensor:
        free = ~self.clamp.where
        block = (free.cumsum(1) - 1) // (self.sampler.block_length or free.shape[1])
        return masked & (block <= step[0])

    def number(self, open_: Tensor, step: tuple[int, int, int, int]) -> Tensor:
        left = open_.sum(1)
        quota = [min(n, QUOTAS[self.sampler.quota](n, *step[1:])) if n else 0 for n in range(open_.shape[1] + 1)]
        return torch.tensor(quota)[left]

    def kept(
        self, sure: Tensor, open_: Tensor, step: tuple[int, int, int, int]
    ) -> Iterator[tuple[float | Tensor, Tensor]]:
        """Weights and the positions [P, L] that are kept, one or several for each draw."""
        number = self.number(open_, step)
        if self.sampler.order != "random":
            place = sure.argsort(dim=1, descending=True, stable=True).argsort(dim=1)
            yield 1.0, open_ & (place < number[:, None])
            return
        left = open_.sum(1)
        ways = torch.tensor([[math.comb(n, k) for k in range(left.max() + 1)] for n in range(left.max() + 1)])
        for size in number.unique().tolist():
            for chosen in itertools.combinations(range(open_.shape[1]), size):
                kept = torch.zeros(open_.shape[1], dtype=torch.bool)
                kept[list(chosen)] = True
                fits = (number == size) & ~(kept & ~open_).any(1)
                yield fits.double() / ways[left, number].clamp(min=1), kept & fits[:, None]


@dataclass(frozen=True)
class _Accepted:
    """What `Parallel` accepts: as many steps as there are free positions at most."""

    sampler: Parallel
    clamp: Conditioning

    def steps(self) -> Iterator[None]:
        yield from [None] * int((~self.clamp.where).sum())

    def open(self, masked: Tensor, step: None) -> Tensor:
        block = self.sampler.blocks(~self.clamp.where).expand_as(masked)
        return masked & (block == torch.where(masked, block, masked.shape[1]).amin(1, keepdim=True))

    def number(self, open_: Tensor, step: None) -> Tensor:
        return open_.sum(1)

    def kept(self, sure: Tensor, open_: Tensor, step: None) -> Iterator[tuple[float, Tensor]]:
        yield 1.0, self.sampler.kept(sure, open_)


def _unmask(
    model: ScoreModel, sampler: Confidence | Parallel, rule: _Quotas | _Accepted, clamp: Conditioning
) -> Distribution:
    graph, length = model.graph, clamp.where.shape[1]
    x, p, evaluations = sequences(graph.states, length), start_distribution(model, clamp), 0.0
    place = graph.states ** torch.arange(length - 1, -1, -1)
    for step in rule.steps():
        masked = x == graph.mask_state
        open_ = rule.open(masked, step)  # pyright: ignore[reportArgumentType]
        alive = (p > 0) & (rule.number(open_, step) > 0)  # pyright: ignore[reportArgumentType]
        after = torch.where(alive, 0.0, p)
        evaluations += float(p[alive].sum())
        for pattern in masked[alive].unique(dim=0):
            at = (alive & (masked == pattern).all(1)).nonzero()[:, 0]
            positions, start = pattern.nonzero()[:, 0].tolist(), 0
            z = torch.cat([model.net.head(trunk_output(model, x[part])[:, positions]) for part in at.split(BATCH)])
            q = z[..., : graph.vocab_size].softmax(-1, dtype=torch.float64)
            drawn = sequences(graph.vocab_size, len(positions))
            for start in range(0, len(at), most := max(1, MOST_DRAWS // len(drawn))):
                part = slice(start, start + most)
                weight, sure = _draws(sampler, q[part], drawn)
                opened = open_[at[part]].repeat_interleave(len(drawn), 0)
                y = x[at[part]].repeat_interleave(len(drawn), 0)
                tokens = y.clone()
                tokens[:, positions] = drawn.repeat(len(q[part]), 1)
                surest = torch.full(y.shape, -torch.inf, dtype=torch.float64)
                surest[:, positions] = sure
                surest = surest.masked_fill(~opened, -torch.inf)
                weight = weight * p[at[part]].repeat_interleave(len(drawn))
                for share, kept in rule.kept(surest, opened, step):  # pyright: ignore[reportArgumentType]
                    after.index_add_(0, (torch.where(kept, tokens, y) * place).sum(1), weight * share)
        p = after
    return Distribution(p, evaluations)


def _draws(sampler: Confidence | Parallel, q: Tensor, drawn: Tensor) -> tuple[Tensor, Tensor]:
    """All draws of the masked positions by q [M, R, N]: their probabilities [M·D], how sure they are [M·D, R]."""
    (states, count), tokens = q.shape[:2], drawn.expand(len(q), *drawn.shape)  # [M, D, R]
    flat = q.flatten(0, 1)
    likeliest = F.one_hot(flat.argmax(-1), flat.shape[-1]).double()
    shaped = (sampler.shape(flat) if sampler.temperature else likeliest).view_as(q)
    shaped = shaped / shaped.sum(-1, keepdim=True)
    weight = shaped.transpose(1, 2).gather(1, tokens).prod(-1)
    each = q[:, None].expand(states, len(drawn), count, -1).flatten(0, 2)
    sure = ORDERS[sampler.order](each, tokens.flatten(), torch.zeros(len(each), dtype=torch.float64))
    return weight.flatten(), sure.view(-1, count)
