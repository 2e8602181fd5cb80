"""The samplers that are compared, and how each uses a number of network evaluations."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from sedd_cli.core.conditioning import Conditioning
from sedd_cli.core.graphs import Graph
from sedd_cli.core.samplers import SAMPLERS, Sampler, Stepper
from sedd_cli.errors import RequestError, shortened
from sedd_cli.recipe.build import nearest
from sedd_cli.recipe.outside import HINT, outside_parts
from sedd_cli.recipe.part import TypedSampler


@dataclass(frozen=True)
class Contender:
    """A sampler with options. label: how the table calls it.

    tuned: an option that sets how many evaluations a text takes, and its values from the most careful to the least:
    the most careful one is used whose mean number of evaluations does not exceed the given one. blocks: into how many
    blocks the free positions are divided; None: as the options say.
    """

    label: str
    sampler: str
    options: dict[str, Any] = field(default_factory=dict)
    tuned: str | None = None
    values: tuple[float, ...] = ()
    blocks: int | None = None

    def fits(self, graph: Graph, given: Conditioning) -> bool:
        """Whether the sampler with its options accepts the graph and the given tokens."""
        try:
            sampler = SAMPLERS[self.sampler](**self.options)
            sampler.check(graph)
            sampler.check_given(given)
        except ValueError:
            return False
        return True

    def at(self, evaluations: int, graph: Graph, free: int) -> Iterator[Sampler]:
        """The samplers to try, in order, with at most so many evaluations for `free` positions; none if none has."""
        cls = SAMPLERS[self.sampler]
        options: dict[str, Any] = dict(self.options)
        if self.blocks:
            options["block_length"] = -(-free // self.blocks)
        if self.tuned:
            for value in self.values:
                yield cls(**options, **{self.tuned: value})
        elif self.sampler == "gibbs":
            sweeps = options.pop("sweeps", max(1, evaluations // 2 // free))
            if (steps := evaluations - sweeps * free - 1) >= 1:
                yield cls(**options, steps=steps, sweeps=sweeps)
        elif "steps" in {f.name for f in dataclasses.fields(cls)}:
            # the last step costs an evaluation, except where a masking graph's steps have left it nothing
            spare = (0, 1) if graph.masking or not issubclass(cls, Stepper) else (1,)
            for kept in spare:
                if (steps := (evaluations - kept) // (1 + options.get("correctors", 0))) >= 1:
                    yield cls(**(options | {"steps": steps}))
        else:
            yield cls(**options)


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
    Contender("confidence, entropy, 2 blocks", "confidence", {"order": "entropy"}, blocks=2),
    Contender("entropy-bounded", "entropy_bounded", tuned="entropy_bound", values=_FROM_0),
    Contender("threshold", "threshold", tuned="threshold", values=_FROM_1),
    Contender("tweedie, correctors 1", "tweedie", {"correctors": 1}),
    Contender("tweedie, grid cosine", "tweedie", {"grid": "cosine"}),
    Contender("tweedie, last step tweedie", "tweedie", {"last_step": "tweedie"}),
    Contender("tweedie, temperature 0.9", "tweedie", {"temperature": 0.9}),
    Contender("tweedie, top-p 0.9", "tweedie", {"top_p": 0.9}),
)


def all_contenders() -> list[Contender]:
    """The lines of the table, and the samplers that are not of this package, each with its default options."""
    outside = [Contender(name.replace("_", "-"), name) for key, name, _ in outside_parts() if key == "sampler"]
    return [*CONTENDERS, *outside]


def named_contenders(words: Sequence[str]) -> list[Contender]:
    """Those of a list: the name of a sampler for all its lines, a line as printed, or `{name: psi, kappa: 0.5}`.

    A line as printed may be divided at its commas. RequestError for anything else.
    """
    found, known, at = [], {one.label: one for one in all_contenders()}, 0
    while at < len(words):
        name = words[at].replace("-", "_")
        lines = {n: ", ".join(words[at : at + n]) for n in range(len(words) - at, 0, -1)}
        line = next(((n, known[label]) for n, label in lines.items() if label in known), None)
        if words[at].startswith("{"):
            found.append(_with_options(words[at]))
            at += 1
        elif line is not None and (line[0] > 1 or name not in SAMPLERS):
            found.append(line[1])
            at += line[0]
        else:
            found += _of_name(words[at], name)
            at += 1
    return found


def _of_name(word: str, name: str) -> list[Contender]:
    if name not in SAMPLERS:
        options = "; one with options: '{name: psi, kappa: 0.5}'"
        raise RequestError(f"unknown sampler {shortened(word)!r}{nearest(name, SAMPLERS)}{options}{HINT}")
    _check_compared(name)
    return [one for one in all_contenders() if one.sampler == name]


def _with_options(word: str) -> Contender:
    typed = TypedSampler.read(word)
    _check_compared(typed.name)
    if "steps" in typed.options:
        raise RequestError(f"sampler.steps: the steps of {typed.name} follow from --steps, remove it")
    sampler = SAMPLERS[typed.name](**typed.options)
    for one in CONTENDERS:
        own = one.tuned or one.blocks or one.sampler == "gibbs"  # these choose options by the number of evaluations
        if not own and sampler == SAMPLERS[one.sampler](**one.options):
            return one
    return Contender(typed.label, typed.name, dict(typed.options))


def _check_compared(name: str) -> None:
    known = {one.sampler for one in all_contenders()}
    if name not in known:
        raise RequestError(f"--exact does not compare the sampler {name}, only {', '.join(sorted(known))}")
