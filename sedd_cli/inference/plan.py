"""Templates to fill, as jobs, and their plans: the layouts of all candidates in a model's tokens."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from itertools import product
from typing import Any

from sedd_cli.checkpoints.loaded_model import LoadedModel
from sedd_cli.errors import RequestError
from sedd_cli.inference.denoise import derived
from sedd_cli.inference.layout import Layout, lay_out, round_trip_warning
from sedd_cli.inference.memory import check_fits
from sedd_cli.inference.names import filling_name
from sedd_cli.inference.rejection import LayoutRequest
from sedd_cli.inference.sampling import MOST_CANDIDATES, ResolvedSampler, Sampling, check_draws
from sedd_cli.inference.template import Template

#: Candidates of a filling where a gap has a range of lengths and no number is given.
CANDIDATES = 8


@dataclass(frozen=True)
class Job:
    """n fillings of a template; filling k depends on (seed, first + k) and these options, on nothing else.

    length: of the whole in tokens, which open gaps share. candidates: draws per filling, of which the best is kept; by
    default one, or eight where a gap has a range of lengths. facts: copied to the results.
    """

    template: Template
    n: int = 1
    seed: int = 0
    length: int | None = None
    candidates: int | None = None
    first: int = 0
    facts: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        check_draws(self.n, self.seed, self.first)
        for key in ("length", "candidates"):
            if (value := getattr(self, key)) is not None and value < 1:
                raise RequestError(f"{key} must be at least 1, found {value}")
        if (self.candidates or 0) > MOST_CANDIDATES:
            raise RequestError(
                f"candidates must be at most {MOST_CANDIDATES:,} (the limit MOST_CANDIDATES), found {self.candidates:,}"
            )

    @property
    def draws(self) -> int:
        """The number of candidates of a filling."""
        return self.candidates or (CANDIDATES if any(gap.low != gap.high for gap in self.template.gaps) else 1)


@dataclass(frozen=True)
class Plan:
    """A job in a model's tokens: the layouts of its candidates.

    layouts: a space in front of a gap is left to the gap (`inference.layout`). own_spaces: the same candidates, with
    such spaces as given tokens of their own, for use after too many rejected draws (`inference.rejection`). resolved:
    the sampler that fills them (`Sampling.for_gaps`).
    """

    job: Job
    resolved: ResolvedSampler
    layouts: list[Layout]
    own_spaces: list[Layout]
    warnings: list[str]

    @property
    def different_lengths(self) -> int:
        """How many combinations of lengths the candidates have."""
        return len({tuple(layout.lengths) for layout in self.layouts})

    def requests(self, number: int, group: int) -> list[LayoutRequest]:
        """The candidates of a filling."""
        name, several = filling_name(number, self.job.facts), len(self.layouts) > 1
        names = [f"{name}, candidate {i + 1}" if several else name for i in range(len(self.layouts))]
        return [
            LayoutRequest(layout, own_spaces, self.job.seed, number, candidate, group, names[candidate])
            for candidate, (layout, own_spaces) in enumerate(zip(self.layouts, self.own_spaces, strict=True))
        ]


def plan_job(model: LoadedModel, job: Job, sampling: Sampling) -> Plan:
    """RequestError where a text cannot be expressed, or lengths do not fit the model or each other."""
    if model.block_size is not None and any(isinstance(part, str) for part in job.template.parts[1:]):
        raise RequestError(
            f"{model.source} fills blocks from left to right, each given earlier ones: it cannot fill a gap that text "
            "follows"
        )
    tokenizer = model.text_tokenizer() if job.template.texts else model.tokenizer
    _check_length(model, job)
    if model.exact and any(isinstance(part, str) for part in job.template.parts[1:]):
        raise RequestError(f"{model.source} goes from left to right: it cannot fill a gap that text follows")
    chosen = _lengths(job, job.draws)
    layouts, own_spaces = (
        [lay_out(job.template, lengths, tokenizer, spaced, job.length) for lengths in chosen]
        for spaced in (True, False)
    )
    for layout in (*own_spaces, *layouts):
        model.check_beginning(layout.tokens)
        if len(layout.tokens) > model.length:
            given = sum(len(part) for part in layout.parts if not isinstance(part, int))
            raise RequestError(
                f"the template takes {len(layout.tokens)} tokens ({given} given, {sum(layout.lengths)} to fill), "
                f"the model has room for {model.length}"
            )
    check_fits(model, max(len(layout.tokens) for layout in (*own_spaces, *layouts)), whole=False)
    warnings = [round_trip_warning(tokenizer, text) for text in job.template.texts]
    resolved = sampling.for_gaps(model, max(sum(layout.lengths) for layout in (*own_spaces, *layouts)))
    return Plan(job, resolved, layouts, own_spaces, [warning for warning in warnings if warning])


def _check_length(model: LoadedModel, job: Job) -> None:
    for gap in job.template.gaps:
        if gap.high is not None and gap.high > model.length:
            raise RequestError(f"a gap of {gap.high} tokens is longer than the model's {model.length}")
    if job.length is None:
        return
    if not 1 <= job.length <= model.length:
        raise RequestError(f"length must lie between 1 and the model's {model.length}, found {job.length}")
    if not any(gap.is_open for gap in job.template.gaps):
        raise RequestError(f"length {job.length}: no gap of the template is open; write [MASK] for one that may grow")


def _lengths(job: Job, count: int) -> list[list[int]]:
    """Lengths of the closed gaps for each of `count` candidates.

    All combinations where there are no more than `count`; else a Latin hypercube: each range is spread evenly over
    the candidates, in an order of its own.
    """
    ranges = [gap.lengths for gap in job.template.gaps if not gap.is_open]
    if math.prod(map(len, ranges)) <= count:
        every = [list(lengths) for lengths in product(*ranges)]
        return [every[i % len(every)] for i in range(count)]
    shuffle, columns = random.Random(derived(job.seed, "lengths")).shuffle, []
    for lengths in ranges:
        column = [lengths[0] + len(lengths) * (2 * i + 1) // (2 * count) for i in range(count)]
        shuffle(column)
        columns.append(column)
    return [list(row) for row in zip(*columns, strict=True)]
