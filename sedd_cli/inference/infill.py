"""Filling templates: candidates of several lengths are drawn together, and ranked by the model's probabilities."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache, partial
from typing import TypeVar

from sedd_cli.checkpoints.loaded_model import LoadedModel
from sedd_cli.inference.bound import BOUND_DRAWS, candidate_bound
from sedd_cli.inference.denoise import BatchDenoiser, Workload, expected_work
from sedd_cli.inference.generate import SamplingResult
from sedd_cli.inference.layout import FilledTemplate, Layout
from sedd_cli.inference.lengths import length_nats
from sedd_cli.inference.plan import Job, Plan, plan_job
from sedd_cli.inference.rejection import DenoisedLayout, LayoutRequest, denoise_layouts
from sedd_cli.inference.sampling import ResolvedSampler, Sampling
from sedd_cli.system.events import Event, Filled, Warn, expand_events, result_of, warned

T = TypeVar("T")
#: `length_nats` by tokens.
Fit = Callable[[tuple[int | None, ...]], float | None]
#: Plans of a stream that are made before the first of them is filled, and filled together.
WINDOW = 1024


def infill(
    model: LoadedModel, jobs: Sequence[Job], sampling: Sampling, every: bool = False, watch: bool = False
) -> Generator[Event, None, SamplingResult[Filled]]:
    """Yield Filled for each filling, in the order of their numbers; if `every`, for each candidate, the best first.

    One job is filled after another. RequestError, before anything is drawn, where one of them cannot be done.
    """
    sampling.resolve(model)  # what is wrong with the options comes first
    plans = [plan_job(model, job, sampling) for job in jobs]
    found: list[Filled] = []
    for plan in plans:
        numbers = deque(range(plan.job.first, plan.job.first + plan.job.n))
        filled = yield from in_turn(fill_plans(model, [plan], every, watch), numbers, lambda one: one.index, every)
        found += sorted(filled, key=lambda one: (one.index, one.candidate))
    return SamplingResult(model, found)


def in_turn(
    filling: Generator[Event, None, list[Filled]], issued: deque[T], name_of: Callable[[Filled], T], every: bool
) -> Generator[Event, None, list[Filled]]:
    """The fillings in the order in which their names were issued; those that are finished early are held."""
    held: dict[T, list[Filled]] = {}

    def complete(name: T) -> bool:
        return name in held and (not every or len(held[name]) == held[name][0].candidates)

    def ready(event: Event) -> Iterable[Event]:
        if not isinstance(event, Filled):
            return (event,)
        held.setdefault(name_of(event), []).append(event)
        found: list[Filled] = []
        while issued and complete(issued[0]):
            found += held.pop(issued.popleft())
        return found

    return expand_events(filling, ready)


def fill_plans(
    model: LoadedModel, plans: Iterable[Plan | None], every: bool, watch: bool, keep: bool = True
) -> Generator[Event, None, list[Filled]]:
    """`infill` of planned jobs as they are finished, those of one sampler after those of another.

    Of a list the number of fillings is known; other plans are made as they are filled, those of `next_plans` together.

    Returns:
        The fillings as they were finished; none of them unless `keep`.
    """
    known, rest, ended = isinstance(plans, list), iter(plans), False
    workload = Workload("fillings", 0, 0.0)
    if isinstance(plans, list):
        every_plan = [plan for plan in plans if plan is not None]
        workload.total = sum(plan.job.n for plan in every_plan)
        workload.work = sum(plan.job.n * _usual_work(model, plan, every) for plan in every_plan)
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
            found += yield from _fill_alike(model, alike[0].resolved, alike, workload, every, watch, keep)
    yield from workload.end()
    return found


def _expected_work(model: LoadedModel, plan: Plan, layouts: Iterable[Layout]) -> float:
    """The work on candidates of a filling: drawing and ranking them."""
    return sum(expected_work(model, plan.resolved, one.tokens) + _ranking_work(plan, one) for one in layouts)


def _usual_work(model: LoadedModel, plan: Plan, every: bool) -> float:
    """The work on a filling before it is known which lengths fit best: that of one round."""
    return _expected_work(model, plan, plan.layouts) / (1 if every else plan.different_lengths)


def _ranking_work(plan: Plan, layout: Layout) -> float:
    """The work on the bound of a candidate, where there are several."""
    return float(BOUND_DRAWS * len(layout.tokens)) if len(plan.layouts) > 1 else 0.0


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


@dataclass
class _Filling:
    """A filling in the making.

    left: the candidates that are drawn only if none of those before counts, in rounds. awaited: number of candidates
    whose drawing has begun.
    """

    plan: Plan
    left: list[list[LayoutRequest]]
    candidates: list[DenoisedLayout] = field(default_factory=list)
    awaited: int = 0

    def begin_round(self) -> list[LayoutRequest]:
        """The candidates to draw next."""
        requests = self.left.pop(0)
        self.awaited += len(requests)
        return requests

    @property
    def is_undecided(self) -> bool:
        """Whether all drawn candidates have spaces of their own, so that any other would come before them."""
        return bool(self.left) and all(one.plain_edges for one in self.candidates)


def _rounds(plan: Plan, fit: Fit, every: bool) -> list[list[int]]:
    """The candidates of a filling by how well their lengths fit, the best first: only those of one round compete."""
    numbers = range(len(plan.layouts))
    if every or plan.different_lengths == 1:
        return [[*numbers]]
    fits = [_rank(fit(layout.tokens)) for layout in plan.layouts]
    return [[number for number in numbers if fits[number] == value] for value in sorted(set(fits))]


def _rank(nats: float | None) -> float:
    """Where lengths with so many nats stand in the order: those that are not a number last."""
    return 0.0 if nats is None else math.inf if math.isnan(nats) else nats


def _fill_alike(
    model: LoadedModel, resolved: ResolvedSampler, plans: Sequence[Plan], workload: Workload, every: bool, watch: bool,
    keep: bool,
) -> Generator[Event, None, list[Filled]]:  # fmt: skip
    """`fill_plans` for plans of one sampler."""
    found: list[Filled] = []
    making: dict[int, _Filling] = {}
    again: deque[list[LayoutRequest]] = deque()
    denoiser = BatchDenoiser(model, resolved, workload, watch)
    fit = lru_cache(1024)(partial(length_nats, model))

    def groups() -> Iterator[list[LayoutRequest]]:  # one after another: n may be large
        numbered = ((plan, plan.job.first + k) for plan in plans for k in range(plan.job.n))
        for group, (plan, number) in enumerate(numbered):
            while again:  # fillings are finished about in their order
                yield again.popleft()
            requests = plan.requests(number, group)
            filling = _Filling(plan, [[requests[i] for i in some] for some in _rounds(plan, fit, every)])
            making[group] = filling
            first = filling.begin_round()
            workload.work += _expected_work(model, plan, (one.layout for one in first)) - _usual_work(
                model, plan, every
            )
            yield first

    source: Iterable[list[LayoutRequest]] = groups()
    while source:
        for event in denoise_layouts(denoiser, source):
            if not isinstance(event, DenoisedLayout):
                yield event
                continue
            filling = making[event.request.group]
            plan, candidates = filling.plan, filling.candidates
            candidates.append(event)
            if len(candidates) < filling.awaited:
                continue
            if filling.is_undecided:
                again.append(filling.begin_round())
                workload.work += _expected_work(model, plan, (one.layout for one in again[-1]))
                continue
            del making[event.request.group]
            ranked, endless = _ranked(model, resolved, plan, candidates, fit, every)
            workload.done += 1
            if work := sum(_ranking_work(plan, one.layout) for one in candidates):
                workload.spent += work
                yield workload.progress()
            if endless:
                yield Warn(
                    f"filling {event.request.number}: the model gives {endless} of {len(candidates)} candidates no "
                    "finite bound (null in JSON); they come last of their lengths"
                )
            found += ranked if keep else []
            yield from ranked
        source, again = again, deque()
    return found


def _ranked(
    model: LoadedModel, resolved: ResolvedSampler, plan: Plan, candidates: list[DenoisedLayout], fit: Fit, every: bool
) -> tuple[list[Filled], int]:
    """The best candidate of a filling, or all of them from the best to the worst; and how many have no finite bound.

    Of candidates of different lengths, first come those whose lengths fit the given text best (`length_nats`), since
    bounds of texts of different lengths do not compare: a longer text costs more, per token the given text dominates.
    Of equal lengths, and where there is no such probability, the lowest bound per token comes first.
    """
    job, bounds = plan.job, [(None, None)] * len(candidates)
    if len(plan.layouts) > 1:
        different = {tuple(one.tokens) for one in candidates}
        bound_of = {tokens: candidate_bound(model, list(tokens)) for tokens in different}
        bounds = [bound_of[tuple(one.tokens)] for one in candidates]
    several = plan.different_lengths > 1
    fits = [fit(one.layout.tokens) if several else None for one in candidates]
    # candidates with spaces of their own last, since their bounds are of other tokens; ties in the order of drawing
    ranked = sorted(
        zip(candidates, bounds, fits, strict=True),
        key=lambda of: (of[0].plain_edges, _rank(of[2]), of[1][0] or 0.0, of[0].request.candidate),
    )
    found: list[Filled] = []
    for rank, (one, (bound, error), nats) in enumerate(ranked if every else ranked[:1]):
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
            length_nats=nats,
            candidate=rank,
            candidates=len(plan.layouts),
            drawn=sum(other.drawn for other in candidates),
            plain_edges=one.plain_edges,
            job=job.facts,
        )
        found.append(filling)
    return found, sum(bound == math.inf for bound, _ in bounds)


def infill_all(model: LoadedModel, job: Job, sampling: Sampling) -> list[Filled]:
    """All fillings of a job at once in the order of their numbers, for a notebook; with warnings of Python."""
    return list(result_of(warned(infill(model, [job], sampling))).samples)
