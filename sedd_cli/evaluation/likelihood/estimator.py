"""Monte-Carlo estimates of a bound on blocks of text: stratified draws, added until the error is small enough.

A replicate is one unbiased estimate for every block, the mean of one or more draws a block. Replicates are independent,
so their scatter gives the error.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from sedd_cli.core.bounds import stratified
from sedd_cli.core.random import BOUND, TIME, Stream
from sedd_cli.core.score import ScoreModel
from sedd_cli.errors import WorkError, plus_minus
from sedd_cli.evaluation.likelihood.cache import ResultCache
from sedd_cli.evaluation.likelihood.protocols import Blocks
from sedd_cli.evaluation.likelihood.summary import Estimates
from sedd_cli.inference.bound import PILOT, MonteCarloOptions, draw_bounds, find_protocol
from sedd_cli.system.distributed import Dist
from sedd_cli.system.events import Event, Note, Progress

#: Most tokens of a group of blocks. On a processor, four times as many took more memory and 1.1 to 1.25 times as long.
GROUP_TOKENS = {"cpu": 4096, "cuda": 16_384}
#: Groups of blocks that each of several processes computes between two reductions.
GROUPS_A_ROUND = 8


def estimate(
    score: ScoreModel,
    blocks: Blocks,
    protocols: tuple[str, ...],
    monte_carlo: MonteCarloOptions,
    cache: ResultCache | None,
    dist: Dist,
    to_bits: float,
) -> Generator[Event, None, list[Estimates]]:
    """Estimates of each protocol's bound on every block, all from the same evaluations of the network.

    Those of a training loss follow, where a protocol has one.

    Args:
        cache: replicates are read from it where it has them, and written to it.
        to_bits: bits per character of one nat of the whole text, for the progress bar.
    """
    training = any(find_protocol(name).training for name in protocols)
    draws, shape = monte_carlo.draws(len(blocks)), (len(blocks), len(protocols) + training)
    task = f"{' and '.join(protocols)} bound"
    most = monte_carlo.most_replicates(draws)
    needed, nats = min(PILOT, most), np.empty((0, *shape))
    estimator = monte_carlo.estimator_for(score.graph, protocols[0])
    surprisal = blocks.surprisal(score.graph.vocab_size).to(dist.device) if estimator == "count" else None
    replicates = _Replicates(score, blocks, protocols, estimator, monte_carlo, draws, dist, surprisal)
    cached = _count_cached(cache, most, shape) if dist.main and cache else 0
    if cached:
        yield Note(f"{cached} replicates are read from the cache")
    each = len(blocks) * draws
    while len(nats) < needed:
        values = dist.from_main(lambda n=len(nats): cache.read(n, shape) if cache else np.full(shape, np.nan))
        for done in replicates.complete(len(nats), values, cache):
            done += len(nats) * each
            if done < needed * each:
                yield Progress(task, done, needed * each, "draws", _live(nats, draws, to_bits))
        nats = np.concatenate([nats, values[None]])
        if len(nats) >= PILOT:
            found = [Estimates(one, draws).mean_and_error for one in np.moveaxis(nats, 2, 0)]
            # the error falls with the square root of the number of replicates
            wanted = max(len(nats) * (error / (monte_carlo.rel_error * mean)) ** 2 for mean, error in found)
            needed = min(max(math.ceil(wanted), len(nats)), most)
    yield Progress(task, len(nats) * each, len(nats) * each, "draws", _live(nats, draws, to_bits))
    return [Estimates(one, draws) for one in np.moveaxis(nats, 2, 0)]


def _count_cached(cache: ResultCache, most: int, shape: tuple[int, ...]) -> int:
    return next((n for n in range(most) if np.isnan(cache.read(n, shape)).any()), most)


def _live(nats: np.ndarray, draws: int, to_bits: float) -> dict[str, str]:
    """The present estimate for the progress bar."""
    if len(nats) < 2:
        return {}
    mean, error = Estimates(nats[:, :, 0], draws).mean_and_error
    return {"bits/char": plus_minus(mean * to_bits, error * to_bits, 3)}


@dataclass(frozen=True)
class _Replicates:
    """What all replicates have in common."""

    score: ScoreModel
    blocks: Blocks
    protocols: tuple[str, ...]
    estimator: str
    monte_carlo: MonteCarloOptions
    draws: int
    dist: Dist
    surprisal: Tensor | None

    def complete(self, number: int, values: np.ndarray, cache: ResultCache | None) -> Generator[int, None, None]:
        """Compute what is NaN in replicate `number`, values [M, P] in nats; yields the number of draws made so far."""
        seed, sampler = self.monte_carlo.seed, self.monte_carlo.sampler
        level = levels(len(self.blocks), self.draws, self.estimator, seed, number)

        def nats(group: Tensor) -> Tensor:
            x0 = self.blocks.read(group).to(self.dist.device)
            cost = None if self.surprisal is None else self.surprisal[x0]
            counted = self.blocks.counted(group)
            counted = None if counted is None else counted.to(self.dist.device)
            stream, steps = Stream(seed, BOUND, group), range(number * self.draws, (number + 1) * self.draws)
            each = [
                draw_bounds(
                    self.score,
                    self.protocols,
                    self.estimator,
                    x0,
                    level[j, group],
                    stream,
                    step,
                    cost,
                    sampler,
                    counted,
                )
                for j, step in enumerate(steps)
            ]
            found = torch.stack(each).mean(0)
            found[:, : len(self.protocols)] *= self.blocks.shares(group).to(found.device)[:, None]
            return found

        for done in fill(values, self.blocks, nats, self.dist, cache, number):
            yield done * self.draws


def fill(
    values: np.ndarray,
    blocks: Blocks,
    nats: Callable[[Tensor], Tensor],
    dist: Dist,
    cache: ResultCache | None,
    number: int,
) -> Generator[int, None, None]:
    """Compute what is NaN in values [M, ...] by nats(group [n]) [n, ...]; yields the number of blocks done so far.

    Groups of blocks are divided among the processes round by round, which does not change any value. The array is
    written to the cache under `number` as it fills. WorkError for a likelihood that is not finite.
    """
    missing = [g for g in blocks.groups(group_tokens(dist.device)) if np.isnan(values[g.numpy()]).any()]
    size, done = 1 if dist.world == 1 else GROUPS_A_ROUND * dist.world, len(blocks) - sum(map(len, missing))
    try:
        for start in range(0, len(missing), size):
            groups = missing[start : start + size]
            found = torch.zeros(values.shape, dtype=torch.float64)
            for group in groups[dist.rank :: dist.world]:
                found[group] = nats(group).cpu()
            new = np.concatenate([g.numpy() for g in groups])
            reduced = dist.total(found.to(dist.device)).cpu().numpy()[new]
            bad = ~np.isfinite(reduced.reshape(len(new), -1)).all(1)
            if bad.any():
                raise WorkError(f"the model gives block {new[bad][0]} of the text no finite likelihood")
            values[new] = reduced
            if cache and dist.main:
                cache.write(number, values, at_once=start + size >= len(missing))
            done += len(new)
            yield done
    except BaseException:
        if cache and dist.main:
            cache.write(number, values)
        raise


def group_tokens(device: torch.device) -> int:
    """Most tokens of a group of blocks on a device."""
    return GROUP_TOKENS.get(device.type, GROUP_TOKENS["cpu"])


def levels(blocks: int, draws: int, estimator: str, seed: int, number: int) -> Tensor:
    """The noise levels of replicate `number`, [draws, blocks] float64 in (0, 1), each of uniform distribution."""
    u_order, u_level = Stream(seed, TIME, torch.arange(blocks)).uniforms(number, draws)
    if estimator == "iid":
        return u_level.T
    v = torch.empty(blocks * draws, dtype=torch.float64)
    v[u_order.reshape(-1).argsort()] = stratified(len(v), u_level.reshape(-1))
    return v.view(blocks, draws).T
