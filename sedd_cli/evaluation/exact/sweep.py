"""Every sampler's distance from the model's own distribution, against network evaluations."""

from __future__ import annotations

import time
from collections.abc import Generator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sedd_cli.checkpoints.loaded_model import LoadedModel
from sedd_cli.core.graphs import GRAPHS
from sedd_cli.core.samplers import SAMPLERS, Sampler
from sedd_cli.core.samplers.stepper import MOST_STEPS
from sedd_cli.core.samplers.tweedie import Tweedie
from sedd_cli.core.score import ScoreModel
from sedd_cli.errors import DamageError, RequestError
from sedd_cli.evaluation.exact.contenders import CONTENDERS, Contender
from sedd_cli.evaluation.exact.distances import DRAWS, Distance, drawn, drawn_law, enumerated, total_variation
from sedd_cli.evaluation.exact.law import exact_law
from sedd_cli.evaluation.exact.source import LETTERS, MarkovSource
from sedd_cli.evaluation.exact.states import Law, check_enumerable
from sedd_cli.recipe.build import nearest
from sedd_cli.system.documents import read_json
from sedd_cli.system.events import Event, Progress
from sedd_cli.system.plotting import empty_figure, save

#: Steps of the chain that stands for the distribution of a trained model, and of the one that tells its error.
REFERENCE_STEPS = 256
#: The file that a folder of results holds.
RESULT = "exact.json"
#: Differences of total variation that are rounding.
TIED = 1e-9
#: The numbers of evaluations that are compared where none are named.
EVALUATIONS = (4, 8, 16, 32)


@dataclass(frozen=True)
class ExactOptions:
    """evaluations: the numbers to compare at. samplers: names in the registry, None for all. graphs: of the source."""

    evaluations: tuple[int, ...] = EVALUATIONS
    samplers: tuple[str, ...] | None = None
    graphs: tuple[str, ...] = ("absorbing", "uniform")
    letters: int = 4
    length: int = 6
    seed: int = 0
    draws: int = DRAWS

    def __post_init__(self) -> None:
        _check_lists(self)
        for name in self.samplers or ():
            if name not in SAMPLERS:
                raise RequestError(f"unknown sampler {name!r}{nearest(name, SAMPLERS)}")
            if name not in {one.sampler for one in CONTENDERS}:
                raise RequestError(f"--exact does not compare the sampler {name}")
        for name in self.graphs:
            if name not in GRAPHS:
                raise RequestError(f"unknown graph {name!r}{nearest(name, GRAPHS)}")
            check_enumerable(self.letters + 1, self.length)
        if not 2 <= self.letters <= len(LETTERS):
            raise RequestError(f"letters must lie between 2 and {len(LETTERS)}, found {self.letters}")
        if self.length < 1:
            raise RequestError(f"length must be at least 1, found {self.length}")
        if not 0 <= self.seed < 2**64:
            raise RequestError(f"seed must lie in [0, 2^64), found {self.seed}")
        if self.draws < 1:
            raise RequestError(f"draws must be at least 1, found {self.draws}")

    @property
    def contenders(self) -> list[Contender]:
        """The lines of the table."""
        return [one for one in CONTENDERS if self.samplers is None or one.sampler in self.samplers]


def _check_lists(options: ExactOptions) -> None:
    """RequestError for a name that stands twice, and for numbers of steps that no sampler takes."""
    for what, names in (("sampler", options.samplers or ()), ("graph", options.graphs)):
        if twice := [name for name in names if names.count(name) > 1]:
            raise RequestError(f"the {what} {twice[0]!r} is named twice")
    for number in options.evaluations:
        if not 1 <= number <= MOST_STEPS:
            raise RequestError(f"steps must lie between 1 and {MOST_STEPS:,}, found {number:,}")


@dataclass(frozen=True)
class ExactPoint:
    """One sampler at one number of evaluations. evaluations: their mean, at most `budget`. options: of the sampler."""

    graph: str
    label: str
    budget: int
    evaluations: float
    options: dict[str, Any]
    distance: Distance

    def to_dict(self) -> dict[str, Any]:
        own = {key: value for key, value in asdict(self).items() if key not in ("distance", "label")}
        return {"sampler": self.label, **own, **asdict(self.distance)}


@dataclass(frozen=True)
class ExactResult:
    """All points. reference: what the distance is from, and by how much (in total variation) that may be off."""

    source: str
    length: int
    reference: str
    reference_error: float
    seconds: float
    points: tuple[ExactPoint, ...]

    def to_dict(self) -> dict[str, Any]:
        return {
            "source": self.source,
            "length": self.length,
            "reference": self.reference,
            "reference_error": self.reference_error,
            "seconds": round(self.seconds, 1),
            "points": [point.to_dict() for point in self.points],
            "nearest": {f"{graph} {budget}": of for (graph, budget), of in nearest_samplers(self.points).items()},
        }


def holds_exact_sweep(folder: Path) -> bool:
    """Whether this is the folder of such a sweep, by its result."""
    try:
        found = read_json(folder / RESULT)
    except (OSError, DamageError, RequestError):
        return False
    return isinstance(found, dict) and {"source", "length", "reference", "points"} <= found.keys()


def nearest_samplers(points: tuple[ExactPoint, ...]) -> dict[tuple[str, int], list[str]]:
    """The enumerated samplers nearest to the model's distribution, for each graph and number of evaluations.

    Several where total variations are equal up to rounding.
    """
    found: dict[tuple[str, int], list[ExactPoint]] = {}
    for point in points:
        if point.distance.draws is None:
            found.setdefault((point.graph, point.budget), []).append(point)
    least = {key: min(one.distance.tv for one in those) for key, those in found.items()}
    return {key: [one.label for one in those if one.distance.tv < least[key] + TIED] for key, those in found.items()}


def sweep_source(options: ExactOptions) -> Generator[Event, None, ExactResult]:
    """Of a Markov chain with exact scores: the distribution is the chain's own."""
    started, source = time.monotonic(), MarkovSource(options.letters, options.length, options.seed)
    models = [(source.model(graph), graph) for graph in options.graphs]
    jobs = [(model, _padded(model, source.distribution())) for model, _ in models]
    points = yield from _points(jobs, options, options.length)
    return ExactResult(source.describe(), options.length, "the source's own", 0.0, time.monotonic() - started, points)


def sweep_model(model: LoadedModel, options: ExactOptions) -> Generator[Event, None, ExactResult]:
    """Of a trained model on the CPU; the network gets all sequences in every step of every sampler."""
    started, score = time.monotonic(), model.score
    if model.exact or model.block_size is not None:
        raise RequestError(f"--exact needs a diffusion model that denoises whole texts, {model.source} is none")
    if options.length > model.length:
        raise RequestError(f"length must be at most the model's {model.length}, found {options.length}")
    check_enumerable(score.graph.states, options.length)
    yield Progress("reference", 0, 1, "distributions")
    p, named, error = own_distribution(score, options.length)
    points = yield from _points([(score, p)], options, options.length)
    return ExactResult(model.source, options.length, named, error, time.monotonic() - started, points)


def own_distribution(model: ScoreModel, length: int) -> tuple[Tensor, str, float]:
    """The distribution [S^L] of a model's continuous-time process, how it is found, and by how much it may be off.

    Of a normalised model with MASK whose distributions of tokens do not depend on time, that of first-hitting; of any
    other, that of a long chain of Tweedie steps.
    """
    if model.graph.masking and model.parametrization == "mean":
        law = exact_law(model, SAMPLERS["first_hitting"](), length)
        if law is not None:
            return law.p, "first-hitting, enumerated", 0.0
    half, whole = (_chain(model, steps, length) for steps in (REFERENCE_STEPS // 2, REFERENCE_STEPS))
    error = total_variation(half, whole)
    return whole, f"{REFERENCE_STEPS} Tweedie steps, {error:.1e} from {REFERENCE_STEPS // 2}", error


def _chain(model: ScoreModel, steps: int, length: int) -> Tensor:
    law = exact_law(model, Tweedie(steps=steps), length)
    assert law is not None
    return law.p


def _padded(model: ScoreModel, p0: Tensor) -> Tensor:
    """p0 [N]*L over all sequences of states, [S^L]."""
    p = torch.zeros((model.graph.states,) * p0.dim(), dtype=torch.float64)
    p[(slice(0, model.graph.vocab_size),) * p0.dim()] = p0
    return p.flatten()


def _points(
    jobs: list[tuple[ScoreModel, Tensor]], options: ExactOptions, length: int
) -> Generator[Event, None, tuple[ExactPoint, ...]]:
    todo = [
        (model, p, contender, budget)
        for model, p in jobs
        for contender in options.contenders
        if contender.fits(model.graph)
        for budget in options.evaluations
    ]
    found, known = [], {}
    for done, (model, p, contender, budget) in enumerate(todo):
        yield Progress("samplers", done, len(todo), "points")
        for sampler in contender.at(budget, model.graph, length):
            key = model.graph.name, sampler
            if key not in known:
                known[key] = _distance(model, sampler, length, p, options)
            evaluations, distance = known[key]
            if evaluations <= budget + 1e-3:
                point = (model.graph.name, contender.label, budget, evaluations, _options(sampler), distance)
                found.append(ExactPoint(*point))
                break
    yield Progress("samplers", len(todo), len(todo), "points")
    return tuple(found)


def _distance(
    model: ScoreModel, sampler: Sampler, length: int, p: Tensor, options: ExactOptions
) -> tuple[float, Distance]:
    law: Law | None = exact_law(model, sampler, length)
    if law is not None:
        return law.evaluations, enumerated(law, p)
    law = drawn_law(model, sampler, length, options.draws, options.seed)
    return law.evaluations, drawn(law, p, options.draws, options.seed)


def _options(sampler: Sampler) -> dict[str, Any]:
    steps = getattr(sampler, "steps", None)
    return ({} if steps is None else {"steps": steps}) | sampler.distribution_options()


def plot_exact(result: ExactResult, path: Path) -> None:
    """Plot total variation against the mean number of evaluations, one panel a graph; circles are enumerated."""
    graphs = list(dict.fromkeys(point.graph for point in result.points))
    figure = empty_figure(7 * len(graphs), 6)
    for axis, graph in zip(figure.subplots(1, len(graphs), squeeze=False)[0], graphs, strict=True):
        own = [point for point in result.points if point.graph == graph]
        labels = list(dict.fromkeys(point.label for point in own))
        for number, label in enumerate(labels):
            points = sorted((one for one in own if one.label == label), key=lambda one: one.evaluations)
            marker = "o" if points[0].distance.draws is None else "x"
            style = ("-", "--", ":")[number // 10 % 3]
            tv = [max(point.distance.tv, 1e-5) for point in points]
            axis.plot([point.evaluations for point in points], tv, style, marker=marker, ms=4, lw=1, label=label)
        axis.set(xscale="log", yscale="log", xlabel="network evaluations (mean)", ylabel="total variation", title=graph)
        ticks = sorted({point.budget for point in own})
        axis.set_xticks(ticks, [str(tick) for tick in ticks])
        axis.minorticks_off()
        axis.grid(alpha=0.3)
        axis.legend(frameon=False, fontsize=6, ncols=2)
    figure.suptitle(f"{result.source}\ndistances below 1e-5 are drawn at 1e-5; crosses: frequencies of draws", size=9)
    save(figure, path)
