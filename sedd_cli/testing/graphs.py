"""What holds for every graph: each function against the form that the base class derives from `rate` alone."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from sedd_cli.core.graphs import Graph
from sedd_cli.testing import reference
from sedd_cli.testing.problems import F64, close, expect, part_for

SIGMAS = (1e-6, 1e-3, 0.05, 0.7, 4.0, 30.0)


def check_graph(part: Graph | Callable[..., Graph]) -> None:
    """Check a graph, an object or a class whose options have defaults.

    It is made with 2, 3 and 7 tokens, at noise levels from 1e-6 to 30.
    `rate` itself is only checked to be a generator: what it should be is the author's to test.

    Raises:
        AssertionError: Says which function fails.
        RequestError: It is no graph.
    """
    for vocab_size in (2, 3, 7):
        graph = part_for("check_graph", Graph, part, vocab_size=vocab_size)
        check_generator(graph)
        check_base(graph)
        for sigma in SIGMAS:
            check_transition(graph, sigma)
            check_products(graph, sigma)
            check_posteriors(graph, sigma)
            check_perturb(graph, sigma)


def derived(graph: Graph) -> Graph:
    """A graph with the same generator that overrides nothing else."""
    own: dict[str, Any] = {
        "name": "derived",
        "states": graph.states,
        "mask": graph.mask,
        "rate": staticmethod(graph.rate),
        "log_score": staticmethod(graph.log_score),
    }
    return type("Derived", (Graph,), own)(graph.vocab_size)


def rows(graph: Graph, sigma: float, seed: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(x, x0, sigma, z) for every pair that the forward process can produce at an active x."""
    pairs = [
        (x, x0)
        for x, x0 in itertools.product(range(graph.states), range(graph.vocab_size))
        if graph.transition(torch.tensor([0.5], **F64), torch.tensor([x0]))[0, x] > 0
        and bool(graph.active(torch.tensor([x])))
    ]
    x, x0 = torch.tensor(pairs).T
    z = 2 * torch.randn(len(x), graph.states, generator=torch.Generator().manual_seed(seed), **F64)
    return x, x0, torch.full((len(x),), sigma, **F64), z


def check_generator(graph: Graph) -> None:
    """`rate` gives the columns of a generator: rates are not negative, columns sum to zero, in float64."""
    name, rate = type(graph).__name__, graph.rate_matrix
    expect(rate.dtype == torch.float64, f"{name}.rate returns {rate.dtype}, float64 is needed")
    worst = float(rate.sum(0).abs().max())
    expect(worst < 1e-14 * max(1.0, float(rate.abs().max())), f"{name}.rate: columns sum to {worst:.2g}, not to zero")
    expect(bool((rate - rate.diagonal().diag() >= 0).all()), f"{name}.rate: a rate to another state is negative")


def check_transition(graph: Graph, sigma: float) -> None:
    """`transition` is the matrix exponential, and at −sigma its inverse."""
    name, level = f"{type(graph).__name__}.transition at sigma {sigma:g}", torch.tensor(sigma, **F64)
    truth = reference.transition(graph.rate_matrix, sigma)
    close(graph.transition_matrix(level), truth, f"{name} is not exp(sigma Q)", atol=1e-13)
    if sigma < 10:  # its inverse: entries of e^sigma
        eye = torch.eye(graph.states, **F64)
        close(graph.transition_matrix(-level) @ truth, eye, f"{name}: −sigma is not its inverse", rtol=0, atol=1e-9)


def check_products(graph: Graph, sigma: float) -> None:
    """Rows, products, ratios and reverse rates are those of dense matrices."""
    name, plain = f"at sigma {sigma:g}, {type(graph).__name__}", derived(graph)
    x, x0, level, z = rows(graph, sigma)
    states = torch.arange(graph.states)
    every = level[:1].expand(len(states))
    close(graph.rate_into(states), plain.rate_into(states), f"{name}.rate_into")
    close(graph.transition_into(every, states), plain.transition_into(every, states), f"{name}.transition_into")
    close(graph.propagate(level, z), plain.propagate(level, z), f"{name}.propagate")
    if sigma < 10:
        close(graph.propagate(-level, z), plain.propagate(-level, z), f"{name}.propagate of −sigma")
    used = graph.rate_into(x) > 0
    close(graph.log_ratio(level, x, x0)[used], plain.log_ratio(level, x, x0)[used], f"{name}.log_ratio")
    close(graph.reverse_rates(z, x), plain.reverse_rates(z, x), f"{name}.reverse_rates")
    expect(graph.active(states).tolist() == plain.active(states).tolist(), f"{name}.active")
    close(graph.active_share(level[:1]), plain.active_share(level[:1]), f"{name}.active_share")


def check_posteriors(graph: Graph, sigma: float) -> None:
    """Mean scores, posteriors, divergences and what scores can be are those of dense matrices."""
    name, plain = f"at sigma {sigma:g}, {type(graph).__name__}", derived(graph)
    x, x0, level, z = rows(graph, sigma)
    N = graph.vocab_size
    found, truth = (one.mean_score(z, level, x)[:, :N] for one in (graph, plain))  # no rate leads from MASK to a token
    close(found, truth, f"{name}.mean_score", rtol=1e-7)
    before, p0 = level / 3, F.one_hot(x0, N).double()
    posterior = graph.posterior(p0, before, level, x)
    close(posterior, plain.posterior(p0, before, level, x), f"{name}.posterior")
    close(posterior.sum(-1), torch.ones(len(x), **F64), f"{name}.posterior does not sum to one")
    found, truth = (one.posterior_kl(z, before, level, x, x0) for one in (graph, plain))
    close(found, truth, f"{name}.posterior_kl", rtol=1e-6, atol=1e-9)
    if graph.mask is None:
        found, truth = (one.prior_kl(level, x0) for one in (graph, plain))
        close(found, truth, f"{name}.prior_kl", rtol=1e-6, atol=1e-14)
    if bool(graph.active(torch.arange(N)).all()):  # elsewhere only MASK counts, where it is 1 at every position
        close(graph.largest_score(level[0]), plain.largest_score(level[0]), f"{name}.largest_score", rtol=1e-7)
        close(graph.normaliser(z, level), plain.normaliser(z, level), f"{name}.normaliser")


def check_base(graph: Graph) -> None:
    """`base` is the distribution at infinite noise, and `sample_base` draws from it."""
    name = type(graph).__name__
    close(graph.base(), reference.limit(graph.rate_matrix)[:, 0], f"{name}.base is not the limit of infinite noise")
    u = (torch.arange(1000, **F64) + 0.5)[None] / 1000
    found = torch.bincount(graph.sample_base(u)[0], minlength=graph.states)
    wanted = torch.bincount(derived(graph).sample_base(u)[0], minlength=graph.states)
    expect(int((found - wanted).abs().max()) <= 1, f"{name}.sample_base does not draw from base")


def check_perturb(graph: Graph, sigma: float) -> None:
    """`perturb` draws from the column of the transition, to the width of a cell of uniforms."""
    cells = 3000
    u = (torch.arange(cells, **F64) + 0.5)[None] / cells
    level = torch.tensor([sigma], **F64)
    for x0 in range(graph.vocab_size):
        truth = graph.transition(level, torch.tensor([x0]))[0]
        for one in (graph, derived(graph)):
            x = one.perturb(torch.full((1, cells), x0), level, u)
            share = torch.bincount(x[0], minlength=graph.states).double() / cells
            what = f"{type(graph).__name__}.perturb of token {x0} at sigma {sigma:g} does not follow its transition"
            close(share, truth, what, rtol=0, atol=4 / cells)
