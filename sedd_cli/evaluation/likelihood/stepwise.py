"""The likelihood bound of a sampler in its steps, without thinning (`core.sampler_bound`), on blocks of text."""

from __future__ import annotations

import math
from collections.abc import Generator
from dataclasses import asdict, dataclass, replace
from typing import Any

from sedd_cli.checkpoints.loaded_model import LoadedModel
from sedd_cli.core.samplers import Stepper
from sedd_cli.errors import RequestError
from sedd_cli.evaluation.likelihood.cache import ResultCache
from sedd_cli.evaluation.likelihood.estimator import estimate
from sedd_cli.evaluation.likelihood.protocols import Blocks
from sedd_cli.evaluation.likelihood.results import BoundResult, MonteCarlo
from sedd_cli.evaluation.likelihood.summary import summary
from sedd_cli.inference.bound import MonteCarloOptions
from sedd_cli.inference.sampling import ResolvedSampler, Sampling
from sedd_cli.recipe.outside import code_of
from sedd_cli.system.distributed import Dist
from sedd_cli.system.events import Event

#: Name of the protocol.
PROTOCOL = "sampler"


@dataclass(frozen=True)
class Followed:
    """A model's sampler, followed along paths of its steps."""

    resolved: ResolvedSampler
    sampler: Stepper

    @classmethod
    def of(cls, model: LoadedModel, sampling: Sampling) -> Followed:
        """RequestError for a sampler that has no such bound."""
        resolved = sampling.resolve(model)
        if not isinstance(resolved.sampler, Stepper):
            raise RequestError(
                f"protocol {PROTOCOL!r} is for samplers with steps, which {resolved.sampler.name} does not have"
            )
        if resolved.sampler.top_p < 1:
            raise RequestError(
                f"protocol {PROTOCOL!r} is not for --top-p: a path to the text takes tokens that the sampler "
                "leaves out, and is infinite"
            )
        if resolved.sampler.last_step == "greedy":
            raise RequestError(
                f"protocol {PROTOCOL!r} is not for --last-step greedy: a path to the text ends in tokens that are not "
                "the likeliest, and is infinite"
            )
        if resolved.sampler.draws != "float64":
            raise RequestError(f"protocol {PROTOCOL!r} is for exact draws, not for those of the published code")
        return cls(resolved, resolved.sampler)

    @property
    def key(self) -> list[Any]:
        """What determines the draws, besides model, text and seed."""
        code = code_of(type(self.sampler)).values()
        return [asdict(self.sampler), self.sampler.name, self.resolved.score.parametrization, *code]

    @property
    def process(self) -> str:
        """What the number bounds, in words."""
        levers = "".join(f", {key} {value}" for key, value in self.resolved.facts["levers"].items())
        return f"{self.sampler.name} in {self.sampler.steps} steps{levers}"

    def bound(
        self, blocks: Blocks, monte_carlo: MonteCarloOptions, cache: ResultCache | None, dist: Dist
    ) -> Generator[Event, None, BoundResult]:
        """The bound on the blocks; each replicate is one path for every block."""
        score, monte_carlo = self.resolved.score, replace(monte_carlo, sampler=self.sampler)
        to_bits = 1 / math.log(2) / blocks.size.characters
        (found,) = yield from estimate(score, blocks, (PROTOCOL,), monte_carlo, cache, dist, to_bits)
        estimator = monte_carlo.estimator_for(score.graph, PROTOCOL)
        draws = MonteCarlo(1, [], monte_carlo.rel_error, monte_carlo.max_nfe, estimator)
        found = replace(found, draws=monte_carlo.evaluations)
        return summary(blocks, found, PROTOCOL, monte_carlo=draws, of=self.process)
