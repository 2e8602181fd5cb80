"""Monte-Carlo estimates of a bound on blocks of text: where draws are placed, when they are enough, what they say.

A replicate is one unbiased estimate for every block, made of one or more draws a block; replicates are independent,
and their scatter is the error.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from sedd_cli.core.bounds import both_bounds, discrete_bound, paper_bound, rigorous_bound, stratified
from sedd_cli.core.graphs import Graph
from sedd_cli.core.random import BOUND, TIME, Stream
from sedd_cli.core.score import ScoreModel
from sedd_cli.errors import RequestError, WorkError
from sedd_cli.evaluation.likelihood.cache import Ledger
from sedd_cli.evaluation.likelihood.protocols import Blocks, find_protocol
from sedd_cli.evaluation.likelihood.summary import Estimates
from sedd_cli.system.distributed import Dist
from sedd_cli.system.events import Event, Note, Progress

#: iid: independent uniform times, as the paper draws them. stratified: one time in each of equal strata, dealt out over
#: the blocks. count: strata of the number of masks, and a unigram control variate (absorbing graphs).
ESTIMATORS = ("iid", "stratified", "count")
#: Fewer independent replicates give no standard error worth the name.
LEAST_REPLICATES = 4
#: Replicates from which the number needed is told; stopping earlier, on a lucky error, makes intervals too short.
PILOT = 8
#: A text of few blocks gets several draws a block and replicate, to have so many strata.
LEAST_STRATA = 64
TOKENS_AT_ONCE = 16_384
#: Bounds on the same blocks, the last one aside, that integrate the same loss.
SHARED = ("rigorous", "sedd-paper")
#: Groups of blocks that each of several processes computes before they tell each other.
ROUND = 8


@dataclass(frozen=True)
class Drawing:
    """How draws are placed (None: count where the graph has that form, else stratified) and when they are enough.

    Replicates are added until the standard error is below rel_error of the bound, or max_nfe network evaluations a
    block are spent.
    """

    estimator: str | None = None
    rel_error: float = 0.005
    max_nfe: int = 64
    seed: int = 0

    def __post_init__(self) -> None:
        if self.estimator is not None and self.estimator not in ESTIMATORS:
            raise RequestError(f"estimator must be one of {', '.join(ESTIMATORS)}, found {self.estimator!r}")
        if not 0 <= self.seed < 2**64:
            raise RequestError(f"seed must lie in [0, 2^64), found {self.seed}")
        if not 0 < self.rel_error < math.inf:
            raise RequestError(f"rel-error must be positive, found {self.rel_error}")
        if self.max_nfe < LEAST_REPLICATES:
            raise RequestError(f"max-nfe must be at least {LEAST_REPLICATES} to give an error, found {self.max_nfe}")

    def placed_for(self, graph: Graph) -> str:
        """The estimator's name; RequestError if the graph has no such form."""
        if self.estimator == "count" and not graph.counts:
            raise RequestError(f"the estimator count needs a graph with MASK, {graph.name} has none: use stratified")
        return self.estimator or ("count" if graph.counts else "stratified")

    def draws(self, blocks: int) -> int:
        """Draws of a block in one replicate."""
        return max(1, min(math.ceil(LEAST_STRATA / blocks), self.max_nfe // PILOT))


def estimate(
    score: ScoreModel,
    blocks: Blocks,
    protocols: tuple[str, ...],
    drawing: Drawing,
    ledger: Ledger | None,
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
    surprisal = blocks.surprisal(score.graph.tokens).to(dist.device) if estimator == "count" else None
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


def placed_for(drawing: Drawing, graph: Graph, protocol: str) -> str:
    """The estimator of a protocol's bound; one in discrete time has no count form."""
    usual = drawing.placed_for(graph)
    return "stratified" if find_protocol(protocol).discrete and usual == "count" else usual


def _known(ledger: Ledger, most: int, shape: tuple[int, ...]) -> int:
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

    def replicate(self, number: int, values: np.ndarray, ledger: Ledger | None) -> Iterator[int]:
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
    ledger: Ledger | None,
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


def shared(estimator: str, protocols: Iterable[str]) -> tuple[str, ...]:
    """The protocols that one evaluation of the network serves at once; none if there are not two."""
    return SHARED if estimator == "count" and set(SHARED) <= set(protocols) else ()


@torch.no_grad()
def draw_bounds(
    score: ScoreModel,
    protocols: tuple[str, ...],
    estimator: str,
    x0: Tensor,
    v: Tensor,
    stream: Stream,
    step: int,
    cost: Tensor | None = None,
) -> Tensor:
    """One unbiased estimate of each protocol's bound per sequence of x0 [B, L], nats [B, P] float64.

    protocols: a single one, or those that are `shared`.
    """
    u, u_end = (w.to(x0.device) for w in stream.uniforms(step, x0.shape[1]))
    v, count = v.to(x0.device), estimator == "count"
    if find_protocol(protocols[0]).discrete:
        found = [discrete_bound(score, x0, v, u)]
    elif protocols == SHARED:
        found = both_bounds(score, x0, v, u, u_end, cost)
    elif find_protocol(protocols[0]).rigorous:
        found = [rigorous_bound(score, x0, v, u, u_end, count, cost)]
    else:
        found = [paper_bound(score, x0, v, u, count=count, cost=cost)]
    return torch.stack([one.double() for one in found], 1)


def bound_of(score: ScoreModel, x0: Tensor, draws: int, seed: int, protocol: str) -> tuple[Tensor, Tensor]:
    """Bound and Monte-Carlo standard error of each sequence [B], from four independent stratified sets of draws."""
    if find_protocol(protocol).wrapped:
        raise RequestError(f"protocol {protocol!r} is about blocks of a text, not about single sequences")
    strata = max(1, draws // LEAST_REPLICATES)
    index, estimator = torch.arange(len(x0)), placed_for(Drawing(), score.graph, protocol)
    means = []
    for r in range(LEAST_REPLICATES):
        total = torch.zeros(len(x0), dtype=torch.float64, device=x0.device)
        for k in range(strata):
            step = r * strata + k
            v = (k + Stream(seed, TIME, index).uniform(step)) / strata
            total += draw_bounds(score, (protocol,), estimator, x0, v, Stream(seed, BOUND, index), step)[:, 0]
        means.append(total / strata)
    stacked = torch.stack(means)
    return stacked.mean(0), stacked.std(0) / math.sqrt(LEAST_REPLICATES)
