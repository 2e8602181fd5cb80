"""Monte-Carlo estimates of a bound on blocks of text: where draws are placed, when they are enough, what they say.

A replicate is one unbiased estimate for every block, made of one or more draws a block; replicates are independent,
and their scatter is the error.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from sedd_cli.core.bounds import stratified
from sedd_cli.core.random import BOUND, TIME, Stream
from sedd_cli.core.score import ScoreModel
from sedd_cli.errors import WorkError
from sedd_cli.evaluation.likelihood.cache import ResultCache
from sedd_cli.evaluation.likelihood.protocols import Blocks
from sedd_cli.evaluation.likelihood.summary import Estimates
from sedd_cli.inference.bound import (
    PILOT,
    Drawing,
    draw_bounds,
    placed_for,
)
from sedd_cli.system.distributed import Dist
from sedd_cli.system.events import Event, Note, Progress

TOKENS_AT_ONCE = 16_384
#: Groups of blocks that each of several processes computes before they tell each other.
ROUND = 8


def estimate(
    score: ScoreModel,
    blocks: Blocks,
    protocols: tuple[str, ...],
    drawing: Drawing,
    ledger: ResultCache | None,
    dist: Dist,
    to_bits: float,
) -> Generator[Event, None, list[Estimates]]:
    """Estimates of each protocol's bound on every block, all from the same evaluations of the network.

    to_bits: bits per character of one nat in all, for the eye. A ledger holds the replicates that are known, and is
    told those that are found.
    """
    draws, shape, task = drawing.draws(len(blocks)), (len(blocks), len(protocols)), f"{' and '.join(protocols)} bound"
    most = drawing.max_nfe // draws
    needed, nats = min(PILOT, most), np.empty((0, *shape))
    estimator = placed_for(drawing, score.graph, protocols[0])
    surprisal = blocks.surprisal(score.graph.vocab_size).to(dist.device) if estimator == "count" else None
    job = _Job(score, blocks, protocols, estimator, drawing.seed, draws, dist, surprisal)
    known = _known(ledger, most, shape) if dist.main and ledger else 0
    if known:
        yield Note(f"{known} replicates are known from before")
    each = len(blocks) * draws
    while len(nats) < needed:
        values = dist.from_main(lambda n=len(nats): ledger.read(n, shape) if ledger else np.full(shape, np.nan))
        for done in job.replicate(len(nats), values, ledger):
            done += len(nats) * each
            if done < needed * each:
                yield Progress(task, done, needed * each, "draws", _figures(nats, draws, to_bits))
        nats = np.concatenate([nats, values[None]])
        if len(nats) >= PILOT:
            found = [Estimates(one, draws).mean_and_error for one in np.moveaxis(nats, 2, 0)]
            # the error falls as one over the root of the replicates
            wanted = max(len(nats) * (error / (drawing.rel_error * mean)) ** 2 for mean, error in found)
            needed = min(max(math.ceil(wanted), len(nats)), most)
    yield Progress(task, len(nats) * each, len(nats) * each, "draws", _figures(nats, draws, to_bits))
    return [Estimates(one, draws) for one in np.moveaxis(nats, 2, 0)]


def _known(ledger: ResultCache, most: int, shape: tuple[int, ...]) -> int:
    return next((n for n in range(most) if np.isnan(ledger.read(n, shape)).any()), most)


def _figures(nats: np.ndarray, draws: int, to_bits: float) -> dict[str, str]:
    if len(nats) < 2:
        return {}
    mean, error = Estimates(nats[:, :, 0], draws).mean_and_error
    return {"bits/char": f"{mean * to_bits:.3f} ± {error * to_bits:.3f}"}


@dataclass(frozen=True)
class _Job:
    """What every replicate has in common."""

    score: ScoreModel
    blocks: Blocks
    protocols: tuple[str, ...]
    estimator: str
    seed: int
    draws: int
    dist: Dist
    surprisal: Tensor | None

    def replicate(self, number: int, values: np.ndarray, ledger: ResultCache | None) -> Iterator[int]:
        """Fill in what is NaN of values [M, P], nats of a block under a protocol; yields how many draws are made."""
        level = levels(len(self.blocks), self.draws, self.estimator, self.seed, number)

        def nats(group: Tensor) -> Tensor:
            x0 = self.blocks.read(group).to(self.dist.device)
            cost = None if self.surprisal is None else self.surprisal[x0]
            stream, steps = Stream(self.seed, BOUND, group), range(number * self.draws, (number + 1) * self.draws)
            each = [
                draw_bounds(self.score, self.protocols, self.estimator, x0, level[j, group], stream, step, cost)
                for j, step in enumerate(steps)
            ]
            return torch.stack(each).mean(0)

        for done in fill(values, self.blocks, nats, self.dist, ledger, number):
            yield done * self.draws


def fill(
    values: np.ndarray,
    blocks: Blocks,
    nats: Callable[[Tensor], Tensor],
    dist: Dist,
    ledger: ResultCache | None,
    number: int,
) -> Iterator[int]:
    """Fill in what is NaN of values [M, ...] by nats(group [n]) [n, ...]; yields how many blocks are done.

    Groups of blocks are dealt out over the processes, a round at a time; who computes a block changes nothing. The
    ledger is told array `number` as it grows. WorkError for a likelihood that is not finite.
    """
    missing = [g for g in blocks.groups(TOKENS_AT_ONCE) if np.isnan(values[g.numpy()]).any()]
    size, done = 1 if dist.world == 1 else ROUND * dist.world, len(blocks) - sum(map(len, missing))
    try:
        for start in range(0, len(missing), size):
            groups = missing[start : start + size]
            found = torch.zeros(values.shape, dtype=torch.float64)
            for group in groups[dist.rank :: dist.world]:
                found[group] = nats(group).cpu()
            new = np.concatenate([g.numpy() for g in groups])
            round_ = dist.total(found.to(dist.device)).cpu().numpy()[new]
            bad = ~np.isfinite(round_.reshape(len(new), -1)).all(1)
            if bad.any():
                raise WorkError(f"the model gives block {new[bad][0]} of the text no finite likelihood")
            values[new] = round_
            if ledger and dist.main:
                ledger.write(number, values, at_once=start + size >= len(missing))
            done += len(new)
            yield done
    except BaseException:
        if ledger and dist.main:
            ledger.write(number, values)
        raise


def levels(blocks: int, draws: int, estimator: str, seed: int, number: int) -> Tensor:
    """Where replicate `number` places its noise, [draws, blocks] float64 in (0, 1), each uniform by itself."""
    u_order, u_level = Stream(seed, TIME, torch.arange(blocks)).uniforms(number, draws)
    if estimator == "iid":
        return u_level.T
    v = torch.empty(blocks * draws, dtype=torch.float64)
    v[u_order.reshape(-1).argsort()] = stratified(len(v), u_level.reshape(-1))
    return v.view(blocks, draws).T
