"""Monte-Carlo bounds on −log p of sequences: protocols, options of the estimator, draws, and their means."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from sedd_cli.checkpoints.loaded_model import LoadedModel
from sedd_cli.core.bounds import both_bounds, discrete_bound, paper_bound, rigorous_bound
from sedd_cli.core.graphs import Graph
from sedd_cli.core.peer_losses import PEER_LOSSES
from sedd_cli.core.protocols import NOT_REPRODUCED, PROTOCOLS, Protocol
from sedd_cli.core.random import BOUND, TIME, Stream
from sedd_cli.core.sampler_bound import sampler_bound
from sedd_cli.core.samplers import Stepper
from sedd_cli.core.score import ScoreModel
from sedd_cli.errors import RequestError, not_one_of, out_of_memory
from sedd_cli.inference.memory import tokens_at_once

#: iid: independent times (uniform under sedd-paper, as in the paper). stratified: one time in each of equal strata,
#: distributed over the blocks. count: stratified by the number of masks, with a unigram control variate (absorbing
#: graphs). Times are drawn more often near no noise (`core.placement`), except by iid under sedd-paper.
ESTIMATORS = ("iid", "stratified", "count")
#: Independent replicates that a standard error needs.
LEAST_REPLICATES = 4
#: Version of the draws; a cache of draws made otherwise is not used.
DRAWS_VERSION = 5
#: Replicates before the number needed is estimated: to stop early on a small error gives intervals that are too short.
PILOT = 8
#: Strata of a replicate: a text of fewer blocks gets several draws per block.
LEAST_STRATA = 64
#: Protocols that integrate the same loss over the same blocks, and so can share network evaluations. (sedd-paper leaves
#: out an incomplete last block.)
SHARED = ("rigorous", "sedd-paper")


#: The default protocols.
DEFAULT_PROTOCOLS = ("rigorous", "sedd-paper")


def find_protocol(name: str) -> Protocol:
    """The protocol of a name; RequestError if there is none."""
    if name in NOT_REPRODUCED:
        raise RequestError(f"protocol {name!r} is none of blocks of a text: {NOT_REPRODUCED[name]}")
    if name not in PROTOCOLS:
        raise RequestError("; ".join([not_one_of("protocol", PROTOCOLS, name), *NOT_REPRODUCED.values()]))
    return PROTOCOLS[name]


@dataclass(frozen=True)
class MonteCarloOptions:
    """Options of the Monte-Carlo estimator.

    estimator: one of ESTIMATORS; None: count for absorbing graphs, else stratified. Replicates are added until the
    standard error is below rel_error of the bound, or max_nfe network evaluations per block are spent. sampler: the one
    whose bound the protocol `sampler` measures; its replicates are paths through all its steps, at least
    LEAST_REPLICATES of them.
    """

    estimator: str | None = None
    rel_error: float = 0.005
    max_nfe: int = 64
    seed: int = 0
    sampler: Stepper | None = None

    def __post_init__(self) -> None:
        if self.estimator is not None and self.estimator not in ESTIMATORS:
            raise RequestError(not_one_of("estimator", ESTIMATORS, self.estimator))
        if not 0 <= self.seed < 2**64:
            raise RequestError(f"seed must lie in [0, 2^64), found {self.seed}")
        if not 0 < self.rel_error < math.inf:
            raise RequestError(f"rel-error must be positive, found {self.rel_error}")
        if self.max_nfe < LEAST_REPLICATES:
            raise RequestError(f"max-nfe must be at least {LEAST_REPLICATES} to give an error, found {self.max_nfe}")

    def estimator_for(self, graph: Graph, protocol: str | None = None) -> str:
        """The estimator for a graph, of the bound of a protocol.

        In discrete time stratified replaces count; samplers are followed along paths. RequestError where the chosen one
        needs a MASK that the graph lacks.
        """
        if protocol is not None and find_protocol(protocol).stepwise:
            return "paths"
        if self.estimator == "count" and not graph.masking:
            lacks = "masks tokens in times of their own" if graph.only_masks else "has none"
            raise RequestError(f"the estimator count needs a graph with MASK, {graph.name} {lacks}: use stratified")
        if protocol is not None and (loss := find_protocol(protocol).loss):
            return "count" if loss == "radd" else "iid" if self.estimator == "iid" else "stratified"
        estimator = self.estimator or ("count" if graph.masking else "stratified")
        discrete = protocol is not None and find_protocol(protocol).discrete
        return "stratified" if discrete and estimator == "count" else estimator

    def draws(self, blocks: int) -> int:
        """Draws per block in one replicate."""
        return 1 if self.sampler else max(1, min(math.ceil(LEAST_STRATA / blocks), self.max_nfe // PILOT))

    @property
    def evaluations(self) -> int:
        """Network evaluations of one draw."""
        return self.sampler.evaluations if self.sampler else 1

    def most_replicates(self, draws: int) -> int:
        """Replicates of `draws` draws that max_nfe allows."""
        return max(LEAST_REPLICATES if self.sampler else 1, self.max_nfe // (draws * self.evaluations))


def shared(estimator: str, protocols: Iterable[str]) -> tuple[str, ...]:
    """The protocols whose bounds share network evaluations: those of SHARED, or none."""
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
    sampler: Stepper | None = None,
    counted: Tensor | None = None,
) -> Tensor:
    """One unbiased estimate of each protocol's bound per sequence.

    Args:
        protocols: one protocol, or those that are `shared`.
        x0: clean sequences [B, L].
        v: positions in [0, 1) of their times, or of their numbers of masks, [B].
        step: number of the draw in the stream of random numbers.
        cost: nats of each token under a unigram model, the control variate of `count`.
        sampler: whose bound the protocol `sampler` measures.
        counted: which positions are no padding [B, L], where some are.

    Returns:
        Nats [B, P], float64; with one column more where the protocol has a training loss.
    """
    if find_protocol(protocols[0]).stepwise:
        assert sampler is not None, "a sampler for the protocol of its name"
        return sampler_bound(score, sampler, x0, stream, step)[:, None]
    if normalized := find_protocol(protocols[0]).normalized:
        score = replace(score, parametrization="mean")
    score = score.given_clean(x0)
    u, u_end = (w.to(x0.device) for w in stream.uniforms(step, x0.shape[1]))
    v, count = v.to(x0.device), estimator == "count"
    if loss := find_protocol(protocols[0]).loss:
        found = PEER_LOSSES[loss](score, x0, v, u, cost, counted)
    elif find_protocol(protocols[0]).discrete:
        found = [discrete_bound(score, x0, v, u)]
    elif protocols == SHARED:
        found = both_bounds(score, x0, v, u, u_end, cost)
    elif find_protocol(protocols[0]).rigorous:
        found = [rigorous_bound(score, x0, v, u, u_end, count, cost, decodes=not normalized)]
    else:
        found = [paper_bound(score, x0, v, u, count=count, cost=cost, placed=estimator == "stratified")]
    return torch.stack([one.double() for one in found], 1)


def bound_of(
    score: ScoreModel, x0: Tensor, draws: int, seed: int, protocol: str, first: int = 0
) -> tuple[Tensor, Tensor]:
    """Bound and standard error of each sequence, nats [B], from LEAST_REPLICATES stratified replicates.

    draws: of each sequence, rounded up to a multiple of LEAST_REPLICATES. They depend on the seed and on the sequence's
    number, which is `first` for the first one, and not on how many sequences are bounded at once.

    An infinite bound, of which one draw that costs infinitely much is proof, has the error 0.
    """
    if find_protocol(protocol).wrapped or find_protocol(protocol).windows:
        raise RequestError(f"protocol {protocol!r} is about blocks of a text, not about single sequences")
    if find_protocol(protocol).stepwise:
        raise RequestError(f"protocol {protocol!r} is about a sampler: `sedd eval` measures it")
    strata, index = math.ceil(draws / LEAST_REPLICATES), torch.arange(first, first + len(x0))
    size, found, done = max(1, tokens_at_once(x0.device) // x0.shape[1]), [], 0
    while done < len(x0):
        part = slice(done, done + size)
        try:
            found.append(_replicates(score, x0[part], strata, seed, protocol, index[part]))
            done += size
        except (RuntimeError, MemoryError) as error:
            if size == 1 or not out_of_memory(error):
                raise
            size = max(1, min(size, len(x0)) // 2)
    stacked = torch.cat(found, 1)
    mean, error = stacked.mean(0), stacked.std(0) / math.sqrt(LEAST_REPLICATES)
    return mean, torch.where(mean == math.inf, 0.0, error)


def _replicates(score: ScoreModel, x0: Tensor, strata: int, seed: int, protocol: str, index: Tensor) -> Tensor:
    """LEAST_REPLICATES means of `strata` draws of the bound of sequences [B, L] with numbers index [B], nats [R, B]."""
    estimator, means = MonteCarloOptions().estimator_for(score.graph, protocol), []
    for r in range(LEAST_REPLICATES):
        total = torch.zeros(len(x0), dtype=torch.float64, device=x0.device)
        for k in range(strata):
            step = r * strata + k
            v = (k + Stream(seed, TIME, index).uniform(step)) / strata
            total += draw_bounds(score, (protocol,), estimator, x0, v, Stream(seed, BOUND, index), step)[:, 0]
        means.append(total / strata)
    return torch.stack(means)


#: Draws for the bound of a candidate.
BOUND_DRAWS = 64


def candidate_bound(model: LoadedModel, tokens: list[int]) -> tuple[float, float]:
    """The rigorous bound on −log p of a sequence in nats per token, and its standard error (0 if autoregressive).

    Both are infinite where the model gives the sequence no finite bound, also where it computes NaN.

    It is the bound of the model itself, whatever options of the sampler drew the candidate. All candidates share the
    same draws, from a fixed seed, so that the bound depends neither on the batch nor on the order of candidates.
    """
    if model.exact:
        nats = model.nats(torch.tensor([tokens], device=model.device))
        return float(nats) / len(tokens), 0.0
    size = max(1, tokens_at_once(model.device) // len(tokens))
    while True:
        try:
            nats = _draw_candidate(model, tokens, size)
            break
        except (RuntimeError, MemoryError) as error:
            if size == 1 or not out_of_memory(error):
                raise
        size = max(1, min(size, BOUND_DRAWS) // 2)
    means = nats.view(LEAST_REPLICATES, -1).mean(1) / len(tokens)
    mean, error = float(means.mean()), float(means.std() / math.sqrt(LEAST_REPLICATES))
    return (mean, error) if math.isfinite(mean) else (math.inf, math.inf)


@torch.no_grad()
def _draw_candidate(model: LoadedModel, tokens: list[int], size: int) -> Tensor:
    """BOUND_DRAWS draws of the bound, float64, replicate by replicate, `size` of them in a batch."""
    # a model in discrete time has a bound of its own; that in continuous time need not be finite
    protocol = "rigorous" if model.objective.steps is None else "discrete"
    index, estimator = torch.arange(BOUND_DRAWS), MonteCarloOptions().estimator_for(model.graph, protocol)
    strata = BOUND_DRAWS // LEAST_REPLICATES
    v = (index % strata + Stream(0, TIME, index).uniform(0)) / strata
    found = []
    for at, part in zip(index.split(size), v.split(size), strict=True):
        x0 = torch.tensor(tokens, device=model.device).expand(len(at), -1)
        found.append(draw_bounds(model.score, (protocol,), estimator, x0, part, Stream(0, BOUND, at), 0)[:, 0].cpu())
    return torch.cat(found).double()
