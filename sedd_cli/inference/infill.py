"""Filling templates: candidates of several lengths are drawn together, and ranked by the model's probabilities."""

from __future__ import annotations

import math
from collections.abc import Generator, Iterable, Iterator, Sequence

from sedd_cli.checkpoints.loaded_model import LoadedModel
from sedd_cli.inference.bound import BOUND_DRAWS, candidate_bound
from sedd_cli.inference.denoise import Workload, expected_work
from sedd_cli.inference.generate import SamplingResult
from sedd_cli.inference.layout import FilledTemplate
from sedd_cli.inference.lengths import length_nats
from sedd_cli.inference.plan import Job, Plan, plan_job
from sedd_cli.inference.rejection import DenoisedLayout, LayoutRequest, denoise_layouts
from sedd_cli.inference.sampling import ResolvedSampler, Sampling
from sedd_cli.system.events import Event, Filled, Warn, result_of, warned

#: Plans of a stream that are made before the first of them is filled, and filled together.
WINDOW = 1024


def infill(
    model: LoadedModel, jobs: Sequence[Job], sampling: Sampling, every: bool = False, watch: bool = False
) -> Generator[Event, None, SamplingResult[Filled]]:
    """Yield Filled for each filling as soon as all its candidates are drawn; if `every`, for each candidate.

    One job is filled after another. RequestError, before anything is drawn, where one of them cannot be done.
    """
    sampling.resolve(model)  # what is wrong with the options comes first
    plans = [plan_job(model, job, sampling) for job in jobs]
    found: list[Filled] = []
    for plan in plans:
        filled = yield from fill_plans(model, [plan], every, watch)
        found += sorted(filled, key=lambda one: (one.index, one.candidate))
    return SamplingResult(model, found)


def fill_plans(
    model: LoadedModel, plans: Iterable[Plan | None], every: bool, watch: bool, keep: bool = True
) -> Generator[Event, None, list[Filled]]:
    """`infill` of planned jobs, those of one sampler after those of another.

    Of a list the number of fillings is known; other plans are made as they are filled, those of `next_plans` together.

    Returns:
        The fillings as they were finished; none of them unless `keep`.
    """
    known, rest, ended = isinstance(plans, list), iter(plans), False
    workload = Workload("fillings", 0, 0.0)
    if isinstance(plans, list):
        every_plan = [plan for plan in plans if plan is not None]
        workload.total = sum(plan.job.n * len(plan.layouts) for plan in every_plan)
        workload.work = sum(_expected_work(model, plan) for plan in every_plan)
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


def _expected_work(model: LoadedModel, plan: Plan) -> float:
    """The work on all fillings of a plan: drawing the candidates, and ranking them."""
    drawing = sum(expected_work(model, plan.resolved, layout.tokens) for layout in plan.layouts)
    return plan.job.n * (drawing + _ranking_work(plan))


def _ranking_work(plan: Plan) -> float:
    """The work on the bounds of a filling's candidates, where there are several."""
    tokens = sum(len(layout.tokens) for layout in plan.layouts)
    return float(BOUND_DRAWS * tokens) if len(plan.layouts) > 1 else 0.0


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
    model: LoadedModel, resolved: ResolvedSampler, plans: Sequence[Plan], workload: Workload, every: bool, watch: bool,
    keep: bool,
) -> Generator[Event, None, list[Filled]]:  # fmt: skip
    """`fill_plans` for plans of one sampler."""
    found: list[Filled] = []
    incomplete: dict[int, tuple[Plan, list[DenoisedLayout]]] = {}

    def groups() -> Iterator[list[LayoutRequest]]:  # one after another: n may be large
        numbered = ((plan, plan.job.first + k) for plan in plans for k in range(plan.job.n))
        for group, (plan, number) in enumerate(numbered):
            incomplete[group] = plan, []
            yield plan.requests(number, group)

    for event in denoise_layouts(model, resolved, groups(), workload, watch):
        if not isinstance(event, DenoisedLayout):
            yield event
            continue
        plan, candidates = incomplete[event.request.group]
        candidates.append(event)
        if len(candidates) == len(plan.layouts):
            del incomplete[event.request.group]
            ranked, endless = _ranked(model, resolved, plan.job, candidates, every)
            if work := _ranking_work(plan):
                workload.spent += work
                yield workload.progress()
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
    bounds of texts of different lengths do not compare: a longer text costs more, per token the given text dominates.
    Of equal lengths, and where there is no such probability, the lowest bound per token comes first.
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
    """All fillings of a job at once in the order of their numbers, for a notebook; with warnings of Python."""
    return list(result_of(warned(infill(model, [job], sampling))).samples)
