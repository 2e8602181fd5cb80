"""The likelihood or bound of blocks under each protocol, from cached and new draws."""

from __future__ import annotations

import math
from collections.abc import Generator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from sedd_cli import __version__
from sedd_cli.checkpoints.loaded_model import LoadedModel
from sedd_cli.errors import plus_minus
from sedd_cli.evaluation.likelihood.cache import ResultCache
from sedd_cli.evaluation.likelihood.estimator import estimate, fill
from sedd_cli.evaluation.likelihood.protocols import Blocks
from sedd_cli.evaluation.likelihood.results import BoundResult, MonteCarlo
from sedd_cli.evaluation.likelihood.stepwise import Followed
from sedd_cli.evaluation.likelihood.summary import Estimates, summary, training_loss
from sedd_cli.evaluation.scorers.causal import CausalModel
from sedd_cli.inference.bound import DRAWS_VERSION, MonteCarloOptions, find_protocol, shared
from sedd_cli.inference.sampling import Sampling
from sedd_cli.system.distributed import Dist
from sedd_cli.system.events import Event, Note, Progress, Warn


@dataclass(frozen=True)
class BlockMeasurement:
    """How the blocks of a split are measured.

    known: what determines the draws, besides the protocol. sampling: of the protocol `sampler`. keep: cache finished
    draws and go on from cached ones.
    """

    known: dict[str, Any]
    monte_carlo: MonteCarloOptions
    sampling: Sampling
    keep: bool
    dist: Dist

    def of(
        self, model: LoadedModel | CausalModel, blocks: dict[str, Blocks]
    ) -> Generator[Event, None, dict[str, BoundResult]]:
        """The result of each protocol. blocks: those of each protocol by its name."""
        found: dict[str, BoundResult] = {}
        if isinstance(model, CausalModel) or model.exact:
            for name, own in blocks.items():
                found[name] = yield from self._likelihood(model, name, own)
            return found
        together = shared(self.known["estimator"], blocks)
        for names in (*([together] if together else []), *((name,) for name in blocks if name not in together)):
            if find_protocol(names[0]).stepwise:
                followed = Followed.of(model, self.sampling)
                cache = self._cache({"protocols": names, "sampler": followed.key})
                found[names[0]] = yield from followed.bound(blocks[names[0]], self.monte_carlo, cache, self.dist)
                yield from _cache_warning(cache)
            else:
                found |= yield from self._bounds(model, {name: blocks[name] for name in names})
        return {name: found[name] for name in blocks}

    def _likelihood(
        self, model: LoadedModel | CausalModel, name: str, blocks: Blocks
    ) -> Generator[Event, None, BoundResult]:
        """The exact likelihood under a protocol.

        A mark at the beginning of a block is given; without marks the first token is predicted too.
        """
        cache, wrapped, dist = self._cache({"protocol": name}), find_protocol(name).wrapped, self.dist
        nats = model.nats_given_first if wrapped else model.nats
        shape = (len(blocks),)
        values = dist.from_main(lambda: cache.read(0, shape) if cache else np.full(shape, np.nan))
        for done in fill(values, blocks, lambda group: nats(blocks.read(group).to(dist.device)), dist, cache, 0):
            yield Progress(f"{name} likelihood", done, len(blocks), "blocks")
        yield from _cache_warning(cache)
        return summary(blocks, Estimates(values[None], 1), name, given=int(wrapped))

    def _bounds(self, model: LoadedModel, blocks: dict[str, Blocks]) -> Generator[Event, None, dict[str, BoundResult]]:
        """The bound of one protocol, or the bounds of those that share their draws."""
        names, first, monte_carlo = tuple(blocks), next(iter(blocks.values())), self.monte_carlo
        how = {"protocols": names, "draws": monte_carlo.draws(len(first))}
        how |= {"padding": model.padding} if find_protocol(names[0]).windows else {}
        cache = self._cache(how)
        to_bits = 1 / math.log(2) / first.size.characters
        estimates = yield from estimate(model.score, first, names, monte_carlo, cache, self.dist, to_bits)
        yield from _cache_warning(cache)
        found = {}
        for (name, own), each in zip(blocks.items(), estimates, strict=False):  # that of a training loss may follow
            kept = Estimates(each.nats[:, : len(own)], each.draws)  # some protocols drop an incomplete last block
            others = [other for other in names if other != name]
            estimator = monte_carlo.estimator_for(model.graph, name)
            draws = MonteCarlo(each.draws, others, monte_carlo.rel_error, monte_carlo.max_nfe, estimator)
            found[name] = summary(own, kept, name, monte_carlo=draws)
        if len(estimates) > len(names):
            loss = training_loss(estimates[-1], first, find_protocol(names[0]).training)
            found[names[0]] = replace(found[names[0]], training_loss=loss)
            yield Note(
                f"{loss.name}: {plus_minus(loss.nats_per_token, loss.error, 4)} nats per token, which is no likelihood"
            )
        return found

    def _cache(self, how: dict[str, Any]) -> ResultCache | None:
        if not self.keep:
            return None
        return ResultCache.of(how | {"sedd": __version__, "draws_version": DRAWS_VERSION} | self.known)


def _cache_warning(cache: ResultCache | None) -> Generator[Event, None, None]:
    if cache and cache.failed:
        yield Warn(f"finished parts could not be cached ({cache.failed}); --no-resume does not try to")
