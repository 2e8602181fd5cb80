"""Every sampler's distance from the model's own distribution, against network evaluations."""

from __future__ import annotations

import time
from collections.abc import Generator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sedd_cli.checkpoints.loaded_model import LoadedModel
from sedd_cli.core.conditioning import Conditioning
from sedd_cli.core.samplers import SAMPLERS, Sampler
from sedd_cli.core.samplers.grids import T_END
from sedd_cli.core.samplers.tweedie import Tweedie
from sedd_cli.core.schedules import T_MIN
from sedd_cli.core.score import ScoreModel
from sedd_cli.errors import RequestError, listed
from sedd_cli.evaluation.exact.contenders import Contender
from sedd_cli.evaluation.exact.distances import Distance, drawn, drawn_distribution, enumerated, total_variation
from sedd_cli.evaluation.exact.distribution import exact_distribution
from sedd_cli.evaluation.exact.options import ExactOptions
from sedd_cli.evaluation.exact.results import ExactPoint, ExactResult
from sedd_cli.evaluation.exact.states import Distribution, check_enumerable, conditional
from sedd_cli.recipe.build import to_data
from sedd_cli.recipe.part import spelled
from sedd_cli.system.events import Event, Progress

#: Steps of the chain that stands for the distribution of a trained model, and of the one that estimates its error.
REFERENCE_STEPS = 256


@dataclass(frozen=True)
class _Job:
    """A model, how its graph is called, its own distribution [S^L], and the tokens given at positions."""

    model: ScoreModel
    graph: str
    p: Tensor
    length: int
    given: dict[int, int]

    @property
    def clamp(self) -> Conditioning:
        return Conditioning.at(list(self.given), list(self.given.values()), 1, self.length)


def sweep_source(options: ExactOptions) -> Generator[Event, None, ExactResult]:
    """Of a Markov chain with exact scores: the distribution is the chain's own, given the letters that are given."""
    started, source, noise = time.monotonic(), options.source, options.noise_part
    for part in options.graph_parts:
        states = part.make(vocab_size=options.letters).states
        check_enumerable(states, options.length, options.letters)
    models, given = [source.model(part, noise) for part in options.graph_parts], source.given(options.given)
    jobs = []
    for model in models:
        p = conditional(_padded(model, source.distribution()), model.graph.states, given)
        jobs.append(_Job(model, spelled(model.graph), p, options.length, given))
    points = yield from _points(jobs, options)
    settings = {
        "letters": options.letters,
        "seed": options.seed,
        "given": options.given,
        "chain": source.to_data(),
        "noise": noise.to_data(),
        "graphs": [_named(model.graph) for model in models],
        "grid_end": T_END,
        "t_min": T_MIN,
    }
    seconds = time.monotonic() - started
    reference = "the source's own" + (" given these letters" if given else "")
    found = source.describe(), options.length, reference, 0.0, seconds, points
    return ExactResult(*found, spelled(noise.make()), settings)


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
    points = yield from _points([_Job(score, score.graph.name, p, options.length, {})], options)
    settings = {"seed": options.seed, "noise": _named(score.schedule), "graphs": [_named(score.graph)]}
    settings |= {"grid_end": T_END, "t_min": T_MIN}
    found = model.source, options.length, named, error, time.monotonic() - started, points
    return ExactResult(*found, spelled(score.schedule), settings)


def _named(part: Any) -> dict[str, Any]:
    """A graph or a schedule with all its options."""
    return {"name": part.name, **to_data(part)}


def own_distribution(model: ScoreModel, length: int) -> tuple[Tensor, str, float]:
    """The distribution [S^L] of a model's continuous-time process, how it is found, and by how much it may be off.

    Of a normalised model with MASK whose distributions of tokens do not depend on time, that of first-hitting; of any
    other, that of a long chain of Tweedie steps.
    """
    if model.graph.masking and model.parametrization == "mean":
        distribution = exact_distribution(model, SAMPLERS["first_hitting"](), length)
        if distribution is not None:
            return distribution.p, "first-hitting, enumerated", 0.0
    half, whole = (_chain(model, steps, length) for steps in (REFERENCE_STEPS // 2, REFERENCE_STEPS))
    error = total_variation(half, whole)
    return whole, f"{REFERENCE_STEPS} Tweedie steps, {error:.1e} from {REFERENCE_STEPS // 2}", error


def _chain(model: ScoreModel, steps: int, length: int) -> Tensor:
    distribution = exact_distribution(model, Tweedie(steps=steps), length)
    assert distribution is not None
    return distribution.p


def _padded(model: ScoreModel, p0: Tensor) -> Tensor:
    """p0 [N]*L over all sequences of states, [S^L]."""
    p = torch.zeros((model.graph.states,) * p0.dim(), dtype=torch.float64)
    p[(slice(0, model.graph.vocab_size),) * p0.dim()] = p0
    return p.flatten()


def _points(jobs: list[_Job], options: ExactOptions) -> Generator[Event, None, tuple[ExactPoint, ...]]:
    todo: list[tuple[_Job, Contender, int]] = [
        (job, contender, budget)
        for job in jobs
        for contender in options.contenders
        if contender.fits(job.model.graph, job.clamp)
        for budget in options.evaluations
    ]
    if not todo:
        labels, graphs = [one.label for one in options.contenders], [job.graph for job in jobs]
        given = " with these given letters" if options.given else ""
        raise RequestError(f"no sampler of {listed(labels)} is for the graph {listed(graphs)}{given}")
    found, known = [], {}
    for done, (job, contender, budget) in enumerate(todo):
        yield Progress("samplers", done, len(todo), "points")
        for sampler in contender.at(budget, job.model.graph, job.length - len(job.given)):
            key = job.graph, sampler
            if key not in known:
                known[key] = _distance(job, sampler, options)
            evaluations, distance = known[key]
            if evaluations <= budget + 1e-3:
                point = (job.graph, contender.label, budget, evaluations, _options(sampler), distance)
                found.append(ExactPoint(*point))
                break
    yield Progress("samplers", len(todo), len(todo), "points")
    if not found:
        raise RequestError(f"no sampler needs as few as {max(options.evaluations)} network evaluations: take more")
    return tuple(found)


def _distance(job: _Job, sampler: Sampler, options: ExactOptions) -> tuple[float, Distance]:
    distribution: Distribution | None = exact_distribution(job.model, sampler, job.length, job.given)
    if distribution is not None:
        return distribution.evaluations, enumerated(distribution, job.p)
    distribution = drawn_distribution(job.model, sampler, job.length, options.draws, options.seed, job.given)
    return distribution.evaluations, drawn(distribution, job.p, options.draws, options.seed)


def _options(sampler: Sampler) -> dict[str, Any]:
    steps = getattr(sampler, "steps", None)
    return ({} if steps is None else {"steps": steps}) | sampler.distribution_options()
