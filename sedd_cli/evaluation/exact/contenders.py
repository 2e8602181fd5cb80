"""The samplers that are compared, and how each uses a number of network evaluations."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from sedd_cli.core.graphs import Graph
from sedd_cli.core.samplers import SAMPLERS, Sampler, Stepper
from sedd_cli.recipe.outside import outside_parts


@dataclass(frozen=True)
class Contender:
    """A sampler with options. label: how the table calls it.

    tuned: an option that decides how many evaluations a text takes, and its values from the most careful to the least:
    the most careful one is used whose mean number of evaluations does not exceed the given one.
    """

    label: str
    sampler: str
    options: dict[str, Any] = field(default_factory=dict)
    tuned: str | None = None
    values: tuple[float, ...] = ()

    def fits(self, graph: Graph) -> bool:
        """Whether the sampler with its options accepts the graph."""
        try:
            SAMPLERS[self.sampler](**self.options).check(graph)
        except ValueError:
            return False
        return True

    def at(self, evaluations: int, graph: Graph, length: int) -> Iterator[Sampler]:
        """The samplers to try, in order, with at most so many evaluations; none where there is no such."""
        cls = SAMPLERS[self.sampler]
        options: dict[str, Any] = dict(self.options)
        if "block_length" in options:
            options["block_length"] = -(-length // 2)
        if self.tuned:
            for value in self.values:
                yield cls(**options, **{self.tuned: value})
        elif self.sampler == "gibbs":
            sweeps = max(1, evaluations // 2 // length)
            if (steps := evaluations - sweeps * length - 1) >= 1:
                yield cls(**options, steps=steps, sweeps=sweeps)
        elif "steps" in {f.name for f in dataclasses.fields(cls)}:
            # the last step costs an evaluation, except where a masking graph's steps have left it nothing
            spare = (0, 1) if graph.masking or not issubclass(cls, Stepper) else (1,)
            for kept in spare:
                if (steps := (evaluations - kept) // (1 + options.get("correctors", 0))) >= 1:
                    yield cls(**(options | {"steps": steps}))
        else:
            yield cls(**options)


def outside_contenders() -> list[Contender]:
    """The samplers that are not of this package, each with its default options."""
    return [Contender(name.replace("_", "-"), name) for key, name, _ in outside_parts() if key == "sampler"]


_FROM_1 = tuple(1 - 0.02 * k for k in range(50))
_FROM_0 = tuple(0.05 * k for k in range(60))

#: The lines of the table.
CONTENDERS = (
    Contender("tweedie", "tweedie"),
    Contender("euler", "euler"),
    Contender("ddim", "ddim"),
    Contender("first-hitting", "first_hitting"),
    Contender("psi, kappa 0.98", "psi"),
    Contender("psi, kappa 0.5", "psi", {"kappa": 0.5}),
    Contender("flow-matching, beta 0.5", "flow_matching"),
    Contender("remdm, eta 0.02", "remdm"),
    Contender("remdm, eta 0.2", "remdm", {"eta": 0.2}),
    Contender("remdm-rescale, eta 0.2", "remdm_rescale", {"eta": 0.2}),
    Contender("remdm-loop, eta 0.2", "remdm_loop", {"eta": 0.2}),
    Contender("remdm-conf", "remdm_conf"),
    Contender("gibbs", "gibbs"),
    Contender("confidence, random", "confidence", {"order": "random"}),
    Contender("confidence, probability", "confidence"),
    Contender("confidence, margin", "confidence", {"order": "margin"}),
    Contender("confidence, entropy", "confidence", {"order": "entropy"}),
    Contender("confidence, entropy, 2 blocks", "confidence", {"order": "entropy", "block_length": 1}),
    Contender("entropy-bounded", "entropy_bounded", tuned="entropy_bound", values=_FROM_0),
    Contender("threshold", "threshold", tuned="threshold", values=_FROM_1),
    Contender("tweedie, correctors 1", "tweedie", {"correctors": 1}),
    Contender("tweedie, grid cosine", "tweedie", {"grid": "cosine"}),
    Contender("tweedie, last step tweedie", "tweedie", {"last_step": "tweedie"}),
    Contender("tweedie, temperature 0.9", "tweedie", {"temperature": 0.9}),
    Contender("tweedie, top-p 0.9", "tweedie", {"top_p": 0.9}),
)
