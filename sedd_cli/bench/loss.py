"""The bench of head and loss."""

from __future__ import annotations

from collections.abc import Generator
from functools import partial

import torch
from torch import Tensor

from sedd_cli.bench import plain
from sedd_cli.bench.compare import BenchResult, compare
from sedd_cli.bench.model import ModelBenchOptions, baselines, matmul_peak, with_flops
from sedd_cli.core.score import ScoreModel
from sedd_cli.models.compile import compile_pays
from sedd_cli.models.head import Readout
from sedd_cli.models.precision import autocast_dtype, full_float32
from sedd_cli.system.events import Event


class FixedTrunk:
    """A network whose trunk is a tensor [B, L, D], which gathers its gradient."""

    def __init__(self, hidden: Tensor, readout: Readout):
        self.leaf, self.readout = hidden.requires_grad_(), readout

    def hidden(self, x: Tensor, sigma: Tensor) -> Tensor:
        return self.leaf

    def head(self, hidden: Tensor) -> Tensor:
        return self.readout(hidden)


class PlainTrunk:
    """The same with a head that has no fused loss."""

    def __init__(self, hidden: Tensor, weight: Tensor, bias: Tensor):
        self.leaf, self.weight, self.bias = hidden.requires_grad_(), weight, bias
        self.autocast: torch.dtype | None = None

    def hidden(self, x: Tensor, sigma: Tensor) -> Tensor:
        return self.leaf

    def head(self, hidden: Tensor) -> Tensor:
        return plain.head(hidden, self.weight, self.bias, self.autocast)


def readout_of(weight: Tensor, bias: Tensor, mixed: bool) -> Readout:
    """A head whose fused losses are compiled where training compiles them: on a GPU with Triton."""
    return Readout(weight, bias, mixed, compiled=weight.is_cuda and compile_pays(weight.device, 0.0))


def bench_loss(options: ModelBenchOptions) -> Generator[Event, None, BenchResult]:
    """Head and loss of the recipe's objective with their gradients, from the trunk's output, as in training.

    Training fuses them where there is a fused loss (`core.fast`); elsewhere it scores in blocks.
    """
    graph, schedule, device = options.parts()
    objective = options.recipe.objective.make()
    x0, peak, dim = options.tokens(device), matmul_peak(device), options.recipe.model.hidden_size
    generator = torch.Generator().manual_seed(1)
    weight = (0.02 * torch.randn(graph.states, dim, generator=generator)).to(device).requires_grad_()
    bias = torch.zeros(graph.states, device=device, requires_grad=True)
    rows = objective.corruptions * len(x0)
    hidden = torch.randn(rows, x0.shape[1], dim, generator=generator).to(device).requires_grad_()
    v = (torch.arange(len(x0), device=device).double() + 0.5) / len(x0)
    width = objective.corruptions * x0.shape[1]
    u = torch.rand(len(x0), width, dtype=torch.float64, generator=generator).to(device)
    leaves: tuple[Tensor, ...] = weight, bias, hidden
    mixed = autocast_dtype(options.recipe.train.precision, device) is not None
    if objective.learns_exponents:
        leaves += (torch.zeros(graph.vocab_size, device=device, requires_grad=True),)
        graph = graph.learned(leaves[-1])
    for leaf in leaves:  # both paths accumulate into gradients that exist
        leaf.grad = torch.zeros_like(leaf)
    parts = graph, schedule
    fused = ScoreModel(
        FixedTrunk(hidden, readout_of(weight, bias, mixed)), *parts, parametrization=objective.parametrization
    )
    trunk = PlainTrunk(hidden, weight, bias)
    whole = plain.AllAtOnce(trunk, *parts, parametrization=objective.parametrization)

    def fast() -> int:
        objective.loss(fused, x0, v, u).total.backward()
        return x0.numel()

    @full_float32()
    def slow(autocast: torch.dtype | None) -> int:
        trunk.autocast = autocast
        if objective.name == "score_entropy":  # scores of all positions, as published
            sigma = schedule(v)[0]
            x = graph.perturb(x0, sigma, u)
            plain.head_loss(trunk.head(hidden), graph, sigma, x, x0).backward()
        else:
            objective.loss(whole, x0, v, u).total.backward()
        return x0.numel()

    # only the products at rows that count are useful
    share = float(objective.active_share(graph, schedule, v).detach().mean())
    flops = 6 * objective.corruptions * share * dim * graph.states
    facts = options.facts(peak, flops) | {"objective": objective.name}
    paths = {"sedd": fast} | {name: partial(slow, dtype) for name, dtype in baselines(device).items()}
    result = yield from compare("loss", paths, options, facts, str(device), steady=True)
    # a backward pass allocates its gradients before it adds them to those that exist
    gradients = sum(leaf.numel() * leaf.element_size() for leaf in leaves) / 2**20
    beyond = {name: {"beyond_gradients_mib": path.extra_mib - gradients} for name, path in result.paths.items()}
    return with_flops(result.with_details(beyond), device)
