"""Filling templates: lengths and candidates for each, drawn together, the best by the model's own bound."""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any

from sedd_cli.checkpoints.loaded_model import LoadedModel
from sedd_cli.data.tokenizers import Tokenizer
from sedd_cli.errors import RequestError
from sedd_cli.inference.bound import candidate_bound
from sedd_cli.inference.denoise import BatchDenoiser, DenoisedRow, Row, derived, tokens_at_once
from sedd_cli.inference.layout import Layout, Reading, lay_out
from sedd_cli.inference.sampling import ResolvedSampler, Sampling
from sedd_cli.inference.template import Template
from sedd_cli.system.events import Event, Filled, Warn

#: Lengths that are tried where a gap has a range and nothing else is asked for.
CANDIDATES = 8
#: Draws until a gap begins with the space that its text asks for; then the space becomes a token of its own.
ATTEMPTS = 16


@dataclass(frozen=True)
class Job:
    """n fillings of a template; the k-th depends on (seed, first + k) and what is asked for here, on nothing else.

    length: of the whole in tokens, which open gaps share. candidates: how many are drawn for each, of which the best
    is kept; by default one, or eight where a gap has a range of lengths. facts: handed through to the results.
    """

    template: Template
    n: int = 1
    seed: int = 0
    length: int | None = None
    candidates: int | None = None
    first: int = 0
    facts: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        for key in ("n", "candidates"):
            value = getattr(self, key)
            if value is not None and value < 1:
                raise RequestError(f"{key} must be at least 1, found {value}")
        if not 0 <= self.seed < 2**64:
            raise RequestError(f"seed must lie in [0, 2^64), found {self.seed}")


@dataclass
class Plan:
    """What a job asks of a model: the layouts of its candidates, with spaces left to the gaps and with plain edges."""

    job: Job
    layouts: list[Layout]
    plain: list[Layout]
    warnings: list[str]


def plan_job(model: LoadedModel, job: Job) -> Plan:
    """RequestError where a text cannot be expressed, or the lengths do not go with the model or each other."""
    tokenizer = model.text_tokenizer() if job.template.texts else model.tokenizer
    _check_length(model, job)
    if model.exact and any(isinstance(part, str) for part in job.template.parts[1:]):
        raise RequestError(f"{model.source} goes from left to right: it cannot fill a gap that text follows")
    count = job.candidates or (CANDIDATES if any(gap.low != gap.high for gap in job.template.gaps) else 1)
    chosen = _lengths(job, count)
    layouts, plain = (
        [lay_out(job.template, lengths, tokenizer, spaced, job.length) for lengths in chosen]
        for spaced in (True, False)
    )
    for layout in (*plain, *layouts):
        if len(layout.tokens) > model.length:
            given = sum(len(part) for part in layout.parts if not isinstance(part, int))
            raise RequestError(
                f"the template takes {len(layout.tokens)} tokens ({given} given, {sum(layout.lengths)} to fill), "
                f"the model has room for {model.length}"
            )
    texts = [_misread(tokenizer, text) for text in job.template.texts if tokenizer]
    return Plan(job, layouts, plain, [text for text in texts if text])


def _check_length(model: LoadedModel, job: Job) -> None:
    for gap in job.template.gaps:
        if gap.high is not None and gap.high > model.length:
            raise RequestError(f"a gap of {gap.high} tokens is longer than the model's {model.length}")
    if job.length is None:
        return
    if not 1 <= job.length <= model.length:
        raise RequestError(f"length must lie between 1 and the model's {model.length}, found {job.length}")
    if not any(gap.open for gap in job.template.gaps):
        raise RequestError(f"length {job.length}: no gap of the template is open; write [MASK] for one that may grow")


def _lengths(job: Job, count: int) -> list[list[int]]:
    """Lengths of the gaps that are not open, for each candidate.

    All combinations where there are no more than asked for; else each range is spread evenly over the candidates, in
    an order of its own (a Latin hypercube).
    """
    gaps = [gap for gap in job.template.gaps if not gap.open]
    if math.prod(gap.high - gap.low + 1 for gap in gaps) <= count:
        every = [list(found) for found in product(*(range(gap.low, gap.high + 1) for gap in gaps))]
        return [every[i % len(every)] for i in range(count)]
    shuffle, columns = random.Random(derived(job.seed, "lengths")).shuffle, []
    for gap in gaps:
        column = [gap.low + (gap.high - gap.low + 1) * (2 * i + 1) // (2 * count) for i in range(count)]
        shuffle(column)
        columns.append(column)
    return [list(row) for row in zip(*columns, strict=True)]


def _misread(tokenizer: Tokenizer, text: str) -> str | None:
    read = tokenizer.decode(tokenizer.encode(text))
    return None if read == text else f"the tokenizer cannot tell {text!r} from {read!r}: so the model reads it"


def infill(
    model: LoadedModel, jobs: Sequence[Job], sampling: Sampling, every: bool = False, watch: bool = False,
    noun: str = "fillings",
) -> Iterator[Event]:  # fmt: skip
    """Yield Filled for each filling as soon as all its candidates are drawn; with `every` for each candidate.

    RequestError, before anything is drawn, where one of the jobs cannot be done.
    """
    way, plans = sampling.resolve(model), [plan_job(model, job) for job in jobs]
    yield from fill_plans(model, way, plans, every, watch, noun)


def fill_plans(
    model: LoadedModel, way: ResolvedSampler, plans: Sequence[Plan], every: bool, watch: bool, noun: str = "fillings"
) -> Iterator[Event]:
    """`infill` of jobs that are planned."""
    for text in dict.fromkeys(text for plan in plans for text in plan.warnings):
        yield Warn(text)
    # made one after another: n may be large
    tries = (
        [_Try(plan, k, candidate) for candidate in range(len(plan.layouts))]
        for plan in plans
        for k in range(plan.job.first, plan.job.first + plan.job.n)
    )
    work = BatchDenoiser(model, way, sum(plan.job.n * len(plan.layouts) for plan in plans), noun, watch)
    for portion in _portions(tries, tokens_at_once(model.device)):
        work.by_steps = len(portion) == work.total
        yield from _draw(work, portion, every)
    yield from work.over()


def _portions(tries: Iterable[list[_Try]], tokens: int) -> Iterator[list[_Try]]:
    """The candidates of fillings after fillings, so that results come on the way: few at first, then more, in the end
    about so many tokens at a time."""
    portion, held, enough = [], 0, tokens // 16
    for same in tries:
        portion += same
        held += sum(len(one.layout(0).tokens) for one in same)
        if held >= enough:
            yield portion
            portion, held, enough = [], 0, min(2 * enough, tokens)
    if portion:
        yield portion


def _draw(work: BatchDenoiser, tries: list[_Try], every: bool) -> Iterator[Event]:
    """Draw candidates until each begins its gaps as it has to; Filled as soon as those of a filling are complete."""
    found: dict[tuple[int, int], list[_Try]] = {}
    for attempt in range(ATTEMPTS + 1):
        again = []
        for event in work.denoise([one.row(attempt) for one in tries]):
            if not isinstance(event, DenoisedRow):
                yield event
                continue
            one = tries[event.place]
            if not one.take(attempt, event):
                again.append(one)
                continue
            work.done += 1
            same = found.setdefault((id(one.plan), one.number), [])
            same.append(one)
            if len(same) == len(one.plan.layouts):
                yield from _finish(work.model, work.way, found.pop((id(one.plan), one.number)), every)
        tries = again
        if not tries:
            return
        work.by_steps = False  # the bar that counted them is full


def infill_all(model: LoadedModel, job: Job, sampling: Sampling) -> list[Filled]:
    """All fillings of a job at once in the order of their numbers, for a notebook."""
    return sorted(
        (event for event in infill(model, [job], sampling) if isinstance(event, Filled)), key=lambda one: one.index
    )


@dataclass
class _Try:
    """A candidate of a filling on its way."""

    plan: Plan
    number: int
    candidate: int
    tokens: list[int] = field(default_factory=list)
    reading: Reading | None = None
    nfe: int = 0
    seconds: float = 0.0
    drawn: int = 0
    plain: bool = False

    def layout(self, attempt: int) -> Layout:
        return (self.plan.plain if attempt == ATTEMPTS else self.plan.layouts)[self.candidate]

    def row(self, attempt: int) -> Row:
        seed = self.plan.job.seed
        if self.candidate or attempt:
            seed = derived(seed, "candidate", self.candidate, "attempt", attempt)
        return Row(self.layout(attempt).tokens, seed, self.number)

    def take(self, attempt: int, done: DenoisedRow) -> bool:
        """Whether the draw begins its gaps as it has to."""
        self.tokens, self.nfe, self.seconds = done.tokens, self.nfe + done.nfe, self.seconds + done.seconds
        self.drawn, self.plain = self.drawn + 1, attempt == ATTEMPTS
        layout = self.layout(attempt)
        self.reading = layout.read(done.tokens)
        return self.reading is not None or layout.tokenizer is None


def _finish(model: LoadedModel, way: ResolvedSampler, tries: list[_Try], every: bool) -> Iterator[Event]:
    bounds: list[tuple[float | None, float | None]] = [(None, None)]
    if len(tries) > 1:
        of = {tokens: candidate_bound(model, list(tokens)) for tokens in {tuple(one.tokens) for one in tries}}
        bounds = [of[tuple(one.tokens)] for one in tries]
    # plain edges last, whose bounds are of other tokens; equals in the order of their numbers
    ranked = sorted(
        zip(tries, bounds, strict=True), key=lambda pair: (pair[0].plain, pair[1][0] or 0.0, pair[0].candidate)
    )
    drawn, job = sum(one.drawn for one in tries), tries[0].plan.job
    for rank, (one, (bound, error)) in enumerate(ranked if every else ranked[:1]):
        reading = one.reading or Reading("", [], [])
        yield Filled(
            index=one.number,
            text=one.reading.text if one.reading else None,
            tokens=one.tokens,
            nfe=sum(other.nfe for other in tries),
            seconds=sum(other.seconds for other in tries),
            given=reading.given,
            seed=job.seed,
            **way.facts,
            template=str(job.template),
            gaps=reading.gaps,
            lengths=one.layout(ATTEMPTS if one.plain else 0).lengths,
            bound=bound,
            bound_error=error,
            candidate=rank,
            candidates=len(tries),
            drawn=drawn,
            plain_edges=one.plain,
            job=job.facts,
        )
