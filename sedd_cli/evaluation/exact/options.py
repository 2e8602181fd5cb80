"""What is compared: numbers of evaluations, samplers, graphs, a schedule, and the source."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from sedd_cli.core.samplers.stepper import MOST_STEPS
from sedd_cli.errors import RequestError
from sedd_cli.evaluation.exact.contenders import Contender, all_contenders, named_contenders
from sedd_cli.evaluation.exact.distances import DRAWS
from sedd_cli.evaluation.exact.source import LETTERS, MarkovSource
from sedd_cli.recipe.part import GraphPart, SchedulePart, spelled

#: The numbers of evaluations that are compared where none are named.
EVALUATIONS = (4, 8, 16, 32)


@dataclass(frozen=True)
class ExactOptions:
    """evaluations: the numbers to compare at. samplers: names, lines as printed or parts with options; None for all.

    graphs, noise, letters, given: of the source. Parts are typed as in a command. given: letters at their positions and
    ? for the free ones, "a??b".
    """

    evaluations: tuple[int, ...] = EVALUATIONS
    samplers: tuple[str, ...] | None = None
    graphs: tuple[str, ...] = ("absorbing", "uniform")
    noise: str = "loglinear"
    letters: int = 4
    length: int = 6
    seed: int = 0
    draws: int = DRAWS
    given: str | None = None

    def __post_init__(self) -> None:
        for key, values in (("steps", self.evaluations), ("sampler", self.samplers), ("graph", self.graphs)):
            if values is not None and not values:
                raise RequestError(f"{key}: at least one is needed")
        for number in self.evaluations:
            if not 1 <= number <= MOST_STEPS:
                raise RequestError(f"steps must lie between 1 and {MOST_STEPS:,}, found {number:,}")
        _check_once("sampler", [one.label for one in self.contenders])
        _check_once("graph", [spelled(part.make(vocab_size=2)) for part in self.graph_parts])
        self.noise_part  # noqa: B018  (checks it)
        if not 2 <= self.letters <= len(LETTERS):
            raise RequestError(f"letters must lie between 2 and {len(LETTERS)}, found {self.letters}")
        if self.length < 1:
            raise RequestError(f"length must be at least 1, found {self.length}")
        if not 0 <= self.seed < 2**64:
            raise RequestError(f"seed must lie in [0, 2^64), found {self.seed}")
        if self.draws < 1:
            raise RequestError(f"draws must be at least 1, found {self.draws}")
        self.source.given(self.given)

    @cached_property
    def contenders(self) -> list[Contender]:
        """The lines of the table."""
        return all_contenders() if self.samplers is None else named_contenders(self.samplers)

    @cached_property
    def graph_parts(self) -> list[GraphPart]:
        """The graphs of the source."""
        return [GraphPart.from_text(text, "graph") for text in self.graphs]

    @cached_property
    def noise_part(self) -> SchedulePart:
        """The schedule of the source."""
        return SchedulePart.from_text(self.noise, "noise")

    @property
    def source(self) -> MarkovSource:
        """The built-in source."""
        return MarkovSource(self.letters, self.length, self.seed)


def _check_once(what: str, names: list[str]) -> None:
    if twice := [name for name in names if names.count(name) > 1]:
        raise RequestError(f"the {what} {twice[0]!r} is named twice")
