"""The bench of head and loss."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass

import torch
from torch import Tensor

from sedd_cli.bench import plain
from sedd_cli.bench.compare import BenchResult, compare
from sedd_cli.bench.model import ModelBenchOptions, matmul_peak, with_flops
from sedd_cli.core.losses.score_entropy import weighted_score_entropy
from sedd_cli.core.score import ScoreModel
from sedd_cli.models.head import Readout
from sedd_cli.models.precision import autocast_dtype
from sedd_cli.system.events import Event


@dataclass(frozen=True)
class Trunkless:
    """A network whose trunk has the given output [B, L, D]."""

    output: Tensor
    readout: Readout

    def hidden(self, x: Tensor, sigma: Tensor) -> Tensor:
        return self.output

    def head(self, hidden: Tensor) -> Tensor:
        return self.readout(hidden)


def bench_loss(options: ModelBenchOptions) -> Generator[Event, None, BenchResult]:
    """Head and loss with their gradients, from the trunk's output: as in training, against scores of all positions.

    Training fuses head and loss where the graph has kernels; elsewhere it scores the active positions in blocks.
    """
    graph, schedule, device = options.parts()
    x0, peak, dim = options.tokens(device), matmul_peak(device), options.recipe.model.hidden_size
    generator = torch.Generator().manual_seed(1)
    weight = (0.02 * torch.randn(graph.states, dim, generator=generator)).to(device).requires_grad_()
    bias = torch.zeros(graph.states, device=device, requires_grad=True)
    hidden = torch.randn(*x0.shape, dim, generator=generator).to(device).requires_grad_()
    v = (torch.arange(len(x0), device=device).double() + 0.5) / len(x0)
    sigma = schedule(v)[0]
    u = torch.rand(x0.shape, dtype=torch.float64, generator=generator).to(device)
    x = graph.perturb(x0, sigma, u)
    leaves = weight, bias, hidden
    mixed = autocast_dtype(options.recipe.train.precision, device) is not None
    for leaf in leaves:  # both paths accumulate into gradients that exist
        leaf.grad = torch.zeros_like(leaf)

    model = ScoreModel(Trunkless(hidden, Readout(weight, bias, mixed)), graph, schedule)

    def fast() -> int:
        weighted_score_entropy(model, x, sigma, x0, torch.ones_like(sigma)).total.backward()
        return x0.numel()

    def slow() -> int:
        plain.head_loss(hidden, weight, bias, graph, sigma, x, x0).backward()
        return x0.numel()

    # only the products at active rows are useful
    flops = 6 * float(graph.active(x).double().mean()) * dim * graph.states
    facts = options.facts(peak, flops)
    result = yield from compare("loss", {"sedd": fast, "plain": slow}, options, facts, str(device), steady=True)
    # a backward pass allocates its gradients before it adds them to those that exist
    gradients = sum(leaf.numel() * leaf.element_size() for leaf in leaves) / 2**20
    beyond = {name: {"beyond_gradients_mib": path.extra_mib - gradients} for name, path in result.paths.items()}
    return with_flops(result.with_details(beyond), device)
