"""Filling templates: candidates of several lengths are drawn together, and ranked by the model's probabilities."""

from __future__ import annotations

import math
import random
from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from sedd_cli.checkpoints.loaded_model import LoadedModel
from sedd_cli.errors import RequestError
from sedd_cli.inference.bound import candidate_bound
from sedd_cli.inference.denoise import derived
from sedd_cli.inference.generate import SamplingResult
from sedd_cli.inference.layout import FilledTemplate, Layout, lay_out, round_trip_warning
from sedd_cli.inference.lengths import length_nats
from sedd_cli.inference.memory import check_fits
from sedd_cli.inference.rejection import DenoisedLayout, LayoutRequest, denoise_layouts
from sedd_cli.inference.sampling import MOST_CANDIDATES, ResolvedSampler, Sampling, check_draws
from sedd_cli.inference.template import Template
from sedd_cli.system.events import Event, Filled, Warn, result_of

#: Candidates of a filling where a gap has a range of lengths and no number is given.
CANDIDATES = 8
#: Plans of a stream that are made before the first of them is filled, and filled together.
WINDOW = 1024


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
        check_draws(self.n, self.seed)
        for key in ("length", "candidates"):
            if (value := getattr(self, key)) is not None and value < 1:
                raise RequestError(f"{key} must be at least 1, found {value}")
        if (self.candidates or 0) > MOST_CANDIDATES:
            raise RequestError(
                f"candidates must be at most {MOST_CANDIDATES:,} (the limit MOST_CANDIDATES), found {self.candidates:,}"
            )


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

    def requests(self, number: int, group: int) -> list[LayoutRequest]:
        """The candidates of a filling."""
        return [
            LayoutRequest(layout, own_spaces, self.job.seed, number, candidate, group)
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
    count = job.candidates or (CANDIDATES if any(gap.low != gap.high for gap in job.template.gaps) else 1)
    chosen = _lengths(job, count)
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


def infill(
    model: LoadedModel, jobs: Sequence[Job], sampling: Sampling, every: bool = False, watch: bool = False
) -> Generator[Event, None, SamplingResult[Filled]]:
    """Yield Filled for each filling as soon as all its candidates are drawn; if `every`, for each candidate.

    RequestError, before anything is drawn, where one of the jobs cannot be done.
    """
    sampling.resolve(model)  # what is wrong with the options comes first
    plans = [plan_job(model, job, sampling) for job in jobs]
    found = yield from fill_plans(model, plans, every, watch)
    return SamplingResult(model, sorted(found, key=lambda one: (one.index, one.candidate)))


def fill_plans(
    model: LoadedModel, plans: Iterable[Plan | None], every: bool, watch: bool, keep: bool = True
) -> Generator[Event, None, list[Filled]]:
    """`infill` of planned jobs, those of one sampler after those of another.

    Of a list the number of fillings is known; other plans are made as they are filled, those of `next_plans` together.

    Returns:
        The fillings as they were finished; none of them unless `keep`.
    """
    known, rest, ended = isinstance(plans, list), iter(plans), False
    said: set[str] = set()
    found: list[Filled] = []
    while not ended:
        window, ended = next_plans(rest, None if known else WINDOW)
        if not (window or ended):
            yield Event()  # the caller may have something to report
        for text in dict.fromkeys(text for plan in window for text in plan.warnings if text not in said):
            said.add(text)
            yield Warn(text)
        by_sampler: dict[str, list[Plan]] = {}
        for plan in window:
            by_sampler.setdefault(repr(plan.resolved.sampler), []).append(plan)
        for alike in by_sampler.values():
            total = sum(plan.job.n * len(plan.layouts) for plan in alike) if known else 0
            found += yield from _fill_alike(model, alike[0].resolved, alike, total, every, watch, keep)
    return found


def next_plans(plans: Iterator[Plan | None], most: int | None = WINDOW) -> tuple[list[Plan], bool]:
    """The next plans, at most so many, or those before a None; and whether there are no more."""
    found: list[Plan] = []
    for plan in plans:
        if plan is None:
            return found, False
        found.append(plan)
        if len(found) == most:
            return found, False
    return found, True


def _fill_alike(
    model: LoadedModel, resolved: ResolvedSampler, plans: Sequence[Plan], total: int, every: bool, watch: bool,
    keep: bool,
) -> Generator[Event, None, list[Filled]]:  # fmt: skip
    """`fill_plans` for plans of one sampler. total: number of candidates, 0 where it is not known."""
    found: list[Filled] = []
    incomplete: dict[int, tuple[Plan, list[DenoisedLayout]]] = {}

    def groups() -> Iterator[list[LayoutRequest]]:  # one after another: n may be large
        numbered = ((plan, plan.job.first + k) for plan in plans for k in range(plan.job.n))
        for group, (plan, number) in enumerate(numbered):
            incomplete[group] = plan, []
            yield plan.requests(number, group)

    for event in denoise_layouts(model, resolved, groups(), total, "fillings", watch):
        if not isinstance(event, DenoisedLayout):
            yield event
            continue
        plan, candidates = incomplete[event.request.group]
        candidates.append(event)
        if len(candidates) == len(plan.layouts):
            del incomplete[event.request.group]
            ranked, endless = _ranked(model, resolved, plan.job, candidates, every)
            if endless:
                yield Warn(
                    f"filling {event.request.number}: the model gives {endless} of {len(candidates)} candidates no "
                    "finite bound (null in JSON); they come last of their lengths"
                )
            found += ranked if keep else []
            yield from ranked
    return found


def _ranked(
    model: LoadedModel, resolved: ResolvedSampler, job: Job, candidates: list[DenoisedLayout], every: bool
) -> tuple[list[Filled], int]:
    """The best candidate of a filling, or all of them from the best to the worst; and how many have no finite bound.

    Of candidates of different lengths, first come those whose lengths fit the given text best (`length_nats`), since
    bounds of texts of different lengths do not compare: a longer text costs more, and per token the given text decides.
    Of equal lengths, and where the model cannot tell, the lowest bound per token comes first.
    """
    bounds: list[tuple[float | None, float | None]] = [(None, None)]
    fits: list[float | None] = [None] * len(candidates)
    if len(candidates) > 1:
        different = {tuple(one.tokens) for one in candidates}
        bound_of = {tokens: candidate_bound(model, list(tokens)) for tokens in different}
        bounds = [bound_of[tuple(one.tokens)] for one in candidates]
    layouts = list(dict.fromkeys(one.layout.tokens for one in candidates))
    if len({tuple(one.layout.lengths) for one in candidates}) > 1:
        fit_of = {tokens: length_nats(model, tokens) for tokens in layouts}
        fits = [fit_of[one.layout.tokens] for one in candidates]
    # candidates with spaces of their own last, since their bounds are of other tokens; ties in the order of drawing
    ranked = sorted(
        zip(candidates, bounds, fits, strict=True),
        key=lambda of: (of[0].plain_edges, of[2] or 0.0, of[1][0] or 0.0, of[0].request.candidate),
    )
    found: list[Filled] = []
    for rank, (one, (bound, error), fit) in enumerate(ranked if every else ranked[:1]):
        filled = one.filled or FilledTemplate("", [], [])
        filling = Filled(
            index=one.request.number,
            text=one.filled.text if one.filled else None,
            tokens=one.tokens,
            nfe=sum(other.nfe for other in candidates),
            seconds=sum(other.seconds for other in candidates),
            given=filled.given,
            seed=job.seed,
            **resolved.facts,
            template=str(job.template),
            gaps=filled.gaps,
            lengths=one.layout.lengths,
            bound=bound,
            bound_error=error,
            length_nats=fit,
            candidate=rank,
            candidates=len(candidates),
            drawn=sum(other.drawn for other in candidates),
            plain_edges=one.plain_edges,
            job=job.facts,
        )
        found.append(filling)
    return found, sum(bound == math.inf for bound, _ in bounds)


def infill_all(model: LoadedModel, job: Job, sampling: Sampling) -> list[Filled]:
    """All fillings of a job at once in the order of their numbers, for a notebook."""
    return list(result_of(infill(model, [job], sampling)).samples)
