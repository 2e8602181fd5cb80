"""What holds for every sampler: with exact scores and many steps it draws from the data distribution, and more."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor

from sedd_cli.core.conditioning import Conditioning
from sedd_cli.core.graphs import GRAPHS, Graph
from sedd_cli.core.samplers import Sampler, Stepper, run_reference
from sedd_cli.core.samplers.denoise import decode_step
from sedd_cli.core.schedules import LogLinear
from sedd_cli.core.score import ScoreModel
from sedd_cli.testing import reference
from sedd_cli.testing.problems import (
    F64,
    INTERVALS,
    N,
    close,
    expect,
    part_for,
    probabilities,
    score_model,
    step_probabilities,
)

#: (Q [S, S], x [M, L], s [M, L, S], t, s_time) → probabilities [M, L, S]: a step written for dense matrices.
DenseStep = Callable[[Tensor, Tensor, Tensor, float, float], Tensor]


def check_sampler(
    part: Sampler | Callable[[], Sampler], exact: bool = True, rates: bool = True, step: DenseStep | None = None
) -> None:
    """Check a sampler, an object or a class whose options have defaults, on three tokens with known scores.

    Args:
        part: The sampler. It is run on the absorbing and the uniform graph, or on the one of them that it takes.
        exact: Whether it draws from the data distribution with exact scores and many steps. One that prefers likely
            tokens does not.
        rates: For a `Stepper`: whether its steps are those of the reverse rates to first order in their length. Those
            of a sampler that also moves elsewhere, such as ReMDM, are not.
        step: For a `Stepper`: its step once more, for dense matrices, under loglinear noise with ε = 1e-3.

    Raises:
        AssertionError: Says what fails, and on which graph.
        RequestError: It is no sampler.
    """
    sampler = part_for("check_sampler", Sampler, part)
    if sampler.causal:
        raise ValueError(f"{sampler.name} is for causal networks: check_sampler has no reference for them")
    for graph in _graphs(sampler):
        if isinstance(sampler, Stepper):
            check_steps(sampler, graph, rates, step)
            if exact:
                check_convergence(sampler, graph)
            check_fast_path(sampler, graph)
        elif exact:
            check_samples(sampler, graph)
        check_run(sampler, graph)


def _graphs(sampler: Sampler) -> list[Graph]:
    """The absorbing and the uniform graph of three tokens, those that the sampler takes."""
    found = []
    for name in ("absorbing", "uniform"):
        graph = GRAPHS[name](vocab_size=N)
        try:
            sampler.check(graph)
        except ValueError:
            continue
        found.append(graph)
    if not found:
        raise ValueError(f"{sampler.name} takes neither the absorbing nor the uniform graph")
    return found


def _model(graph: Graph, L: int, spread: float = 0.0) -> tuple[ScoreModel, Tensor, Tensor, reference.Score]:
    """(model, Q, p0, score): the exact score of a data distribution, or one that is wrong by `spread`."""
    Q = graph.rate_matrix
    p0 = reference.source(N, L, len(Q))
    score = reference.wrong_score(p0, Q, spread)
    return score_model(graph, LogLinear(), score), Q, p0, score


def check_steps(sampler: Stepper, graph: Graph, rates: bool = True, step: DenseStep | None = None) -> None:
    """Single steps of all states: distributions, first order in the length of the step, equal to the dense step."""
    name, x = f"{sampler.name} on {graph.name}", reference.sequences(graph.states, 2)
    for spread in (0.0, 1.5):
        model, Q, _, score = _model(graph, 2, spread)
        for t, s in INTERVALS:
            found, where = step_probabilities(sampler, model, x, t, s), f"{name}, step from {t:g} to {s:g}"
            expect(bool(found.isfinite().all()) and float(found.min()) >= -1e-12, f"{where}: a probability is negative")
            close(found.sum(-1), torch.ones(x.shape, **F64), f"{where}: probabilities do not sum to one", atol=1e-9)
            if step is not None:
                truth = step(Q, x, score(x, model.schedule.sigma(t)), t, s)
                close(found, truth, f"{where} is not the dense step", atol=1e-11)
    if rates:
        model, Q, _, score = _model(graph, 2)
        t, dt = 0.5, 1e-5
        dsigma = float(model.schedule(torch.tensor(t, **F64))[1])
        wanted = dt * dsigma * Q[x] * score(x, model.schedule.sigma(t))  # the rates Q(x, y) s_y of equation 4
        off = torch.ones_like(wanted).scatter_(-1, x[..., None], 0.0).bool()
        what = f"{name}: a short step is not that of the reverse rates (dt sigma' Q(x, y) s_y)"
        close(step_probabilities(sampler, model, x, t, t - dt)[off], wanted[off], what, rtol=1e-3, atol=1e-3 * dt)


def check_convergence(sampler: Stepper, graph: Graph) -> None:
    """The exact distribution of what the steps draw comes near the data distribution, and nearer with more steps."""
    apart = [float((_drawn(sampler, graph, steps)).abs().sum()) / 2 for steps in (8, 64)]
    what = f"{sampler.name} on {graph.name}, exact scores: total variation from the data distribution"
    expect(apart[1] < 0.03, f"{what} is {apart[1]:.3f} with 64 steps")
    expect(apart[1] < 0.5 * apart[0] + 1e-6, f"{what} is {apart[0]:.3f} with 8 steps and {apart[1]:.3f} with 64")


def _drawn(sampler: Stepper, graph: Graph, steps: int) -> Tensor:
    """What `steps` steps draw, [S^2], minus the data distribution: all states at once."""
    (model, _, p0, _), S = _model(graph, 2), graph.states
    xs, grid = reference.sequences(S, 2), [1 + (1e-5 - 1) * k / steps for k in range(steps + 1)]
    p = _joint(graph.base().expand(1, 2, S))[0]
    for t, s in pairwise(grid):
        p = p @ _joint(step_probabilities(sampler, model, xs, t, s))
    sigma = torch.full((len(xs),), model.schedule.sigma(grid[-1]), **F64)
    log_score, level = model.log_score(xs, sigma).flatten(0, 1), sigma.repeat_interleave(2)
    last = probabilities(decode_step(graph, log_score, xs.flatten(), level), xs.flatten()).unflatten(0, xs.shape)
    return p @ _joint(last) - p0.flatten()


def _joint(rows: Tensor) -> Tensor:
    """Independent positions [M, 2, S] to probabilities of sequences [M, S²]."""
    return (rows[:, 0, :, None] * rows[:, 1, None, :]).flatten(1)


def check_fast_path(sampler: Stepper, graph: Graph) -> None:
    """`run`, which scores only what may move, draws what scoring everything draws, for the same random numbers."""
    index, given = torch.arange(100), Conditioning.at([1], [0], 100, 3)
    for spread in (0.4, 4.0):
        model = _model(graph, 3, spread)[0]
        for steps in (3, 40):
            stepper = dataclasses.replace(sampler, steps=steps)
            *_, fast = stepper.run(model, given, seed=5, index=index)
            *_, plain = run_reference(model, stepper, given, seed=5, index=index)
            what = (
                f"{sampler.name} on {graph.name}, {steps} steps: the fast path draws other samples than the plain one"
            )
            expect(torch.equal(fast.x, plain), f"{what}; see fast_transition and move_bound")


def check_samples(sampler: Sampler, graph: Graph) -> None:
    """Samples with exact scores follow the data distribution: total variation, for samplers without steps of a grid."""
    draws, (model, _, p0, _) = 2_000, _model(graph, 2)
    many = _with_steps(sampler, 100)
    *_, last = many.run(model, Conditioning.nothing(draws, 2), 11, torch.arange(draws))
    seen = torch.bincount(last.x[:, 0] * graph.states + last.x[:, 1], minlength=graph.states**2).double() / draws
    apart = float((seen - p0.flatten()).abs().sum()) / 2
    # the distance of so many draws from their own distribution is 0.03 on average
    expect(apart < 0.08, f"{sampler.name} on {graph.name}: samples are {apart:.3f} from the data distribution")


def check_run(sampler: Sampler, graph: Graph) -> None:
    """Given tokens stay, no MASK is left, and a sequence depends on its seed and number alone."""
    name, (model, *_), few = f"{sampler.name} on {graph.name}", _model(graph, 3, 0.4), _with_steps(sampler, 5)
    *_, last = few.run(model, Conditioning.at([0, 2], [2, 1], 20, 3), 3, torch.arange(20))
    expect(bool((last.x[:, [0, 2]] == torch.tensor([2, 1])).all()), f"{name}: a given token was changed")
    expect(int(last.x.max()) < N, f"{name}: a MASK is left")
    *_, whole = few.run(model, Conditioning.nothing(20, 3), 3, torch.arange(20))
    for k in (0, 7, 19):
        *_, alone = few.run(model, Conditioning.nothing(1, 3), 3, torch.tensor([k]))
        expect(torch.equal(alone.x[0], whole.x[k]), f"{name}: sequence {k} depends on the batch that it is drawn in")


def _with_steps(sampler: Sampler, steps: int) -> Sampler:
    """The sampler with so many steps, if it has them."""
    known = any(f.name == "steps" for f in dataclasses.fields(sampler))
    return dataclasses.replace(sampler, **({"steps": steps} if known else {}))
