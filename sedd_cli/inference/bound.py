"""Likelihood bounds of sequences under a protocol: which bound it is, how draws are placed, one draw, and means."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from sedd_cli.checkpoints.loaded_model import LoadedModel
from sedd_cli.core.bounds import both_bounds, discrete_bound, paper_bound, rigorous_bound
from sedd_cli.core.graphs import Graph
from sedd_cli.core.random import BOUND, TIME, Stream
from sedd_cli.core.score import ScoreModel
from sedd_cli.errors import RequestError, out_of_memory
from sedd_cli.inference.denoise import tokens_at_once

#: iid: independent uniform times, as the paper draws them. stratified: one time in each of equal strata, dealt out over
#: the blocks. count: strata of the number of masks, and a unigram control variate (absorbing graphs).
ESTIMATORS = ("iid", "stratified", "count")
#: Fewer independent replicates give no standard error worth the name.
LEAST_REPLICATES = 4
#: Replicates from which the number needed is told; stopping earlier, on a lucky error, makes intervals too short.
PILOT = 8
#: A text of few blocks gets several draws a block and replicate, to have so many strata.
LEAST_STRATA = 64
#: Bounds on the same blocks, the last one aside, that integrate the same loss.
SHARED = ("rigorous", "sedd-paper")


@dataclass(frozen=True)
class Protocol:
    """rigorous: a true bound; else the published integral, without its ends. rest: an incomplete last block counts.
    discrete: the variational bound of a model in discrete time, step by step.

    wrapped: every block begins and ends with the tokenizer's own marks, which count as tokens (MDLM's evaluation).
    """

    rigorous: bool
    rest: bool
    wrapped: bool = False
    discrete: bool = False


PROTOCOLS = {
    "rigorous": Protocol(rigorous=True, rest=True),
    "sedd-paper": Protocol(rigorous=False, rest=False),
    "mdlm": Protocol(rigorous=False, rest=False, wrapped=True),
    "discrete": Protocol(rigorous=True, rest=True, discrete=True),
}
#: What is measured where nothing is said.
USUAL = ("rigorous", "sedd-paper")


def find_protocol(name: str) -> Protocol:
    """RequestError naming the protocols there are."""
    if name not in PROTOCOLS:
        raise RequestError(f"protocol must be one of {', '.join(PROTOCOLS)}, found {name!r}")
    return PROTOCOLS[name]


def check_protocol(name: str, steps: int | None, source: str) -> None:
    """RequestError where a protocol is not for a model of so many steps (None: of continuous time, or of none)."""
    if find_protocol(name).discrete and steps is None:
        raise RequestError(f"protocol {name!r} is for models in discrete time (d3pm), {source} is none")


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
        if self.estimator == "count" and not graph.masking:
            raise RequestError(f"the estimator count needs a graph with MASK, {graph.name} has none: use stratified")
        return self.estimator or ("count" if graph.masking else "stratified")

    def draws(self, blocks: int) -> int:
        """Draws of a block in one replicate."""
        return max(1, min(math.ceil(LEAST_STRATA / blocks), self.max_nfe // PILOT))


def placed_for(drawing: Drawing, graph: Graph, protocol: str) -> str:
    """The estimator of a protocol's bound; one in discrete time has no count form."""
    usual = drawing.placed_for(graph)
    return "stratified" if find_protocol(protocol).discrete and usual == "count" else usual


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


#: Draws of the bound on a candidate.
BOUND_DRAWS = 64


def candidate_bound(model: LoadedModel, tokens: list[int]) -> tuple[float, float]:
    """The rigorous bound on −log p of a sequence in nats per token, and its standard error (exact from left to right).

    It is that of the model as it stands, whatever levers drew the candidate. Every candidate sees the same draws, from
    a seed of their own, so that neighbours in a batch, or their order, count for nothing.
    """
    if model.exact:
        nats = model.nats(torch.tensor([tokens], device=model.device))
        return float(nats) / len(tokens), 0.0
    size = max(1, tokens_at_once(model.device) // len(tokens))
    while True:
        try:
            nats = _draws(model, tokens, size)
            break
        except (RuntimeError, MemoryError) as error:
            if size == 1 or not out_of_memory(error):
                raise
        size = max(1, min(size, BOUND_DRAWS) // 2)
    means = nats.view(LEAST_REPLICATES, -1).mean(1) / len(tokens)
    return float(means.mean()), float(means.std() / math.sqrt(LEAST_REPLICATES))


@torch.no_grad()
def _draws(model: LoadedModel, tokens: list[int], size: int) -> Tensor:
    """Draws of the bound, float64 [BOUND_DRAWS], in sets of strata one after another; `size` of them at once."""
    index, estimator = torch.arange(BOUND_DRAWS), Drawing().placed_for(model.graph)
    strata = BOUND_DRAWS // LEAST_REPLICATES
    v = (index % strata + Stream(0, TIME, index).uniform(0)) / strata
    found = []
    for at, part in zip(index.split(size), v.split(size), strict=True):
        x0 = torch.tensor(tokens, device=model.device).expand(len(at), -1)
        found.append(draw_bounds(model.score, ("rigorous",), estimator, x0, part, Stream(0, BOUND, at), 0)[:, 0].cpu())
    return torch.cat(found).double()
