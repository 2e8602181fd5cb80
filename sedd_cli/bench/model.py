"""Benches of the model: a training step and the loss alone, each against the plain way to do it."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch

from sedd_cli.bench import plain
from sedd_cli.bench.compare import BenchOptions, compare, wait
from sedd_cli.core.fast import kernels_of
from sedd_cli.core.fast.base import Targets
from sedd_cli.core.fast.fused import weighted_loss
from sedd_cli.core.graphs import Graph
from sedd_cli.core.random import NOISE, TIME, Stream
from sedd_cli.core.schedules import Schedule
from sedd_cli.errors import RequestError
from sedd_cli.models.dit import DiT
from sedd_cli.models.head import Readout
from sedd_cli.models.precision import autocast_dtype
from sedd_cli.recipe import Recipe
from sedd_cli.recipe.assemble import expected_vocab_size, make_graph
from sedd_cli.system.distributed import Dist, pick_device
from sedd_cli.system.events import Event, Finished, Note
from sedd_cli.training.flops import flops_a_token, known_peak
from sedd_cli.training.state import TrainState
from sedd_cli.training.step import gradients


@dataclass(frozen=True)
class ModelBench(BenchOptions):
    """The recipe's network with fresh weights, `batch` sequences of random tokens, on `device`."""

    recipe: Recipe | None = None
    batch: int = 2
    device: str = "auto"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.batch < 1:
            raise RequestError(f"batch must be at least 1, found {self.batch}")
        if self._vocabulary() is None:
            raise RequestError("the recipe's vocabulary is known only once its corpus is prepared; name another recipe")

    def _vocabulary(self) -> int | None:
        from sedd_cli.data.corpora import find_corpus
        from sedd_cli.data.prepared import PrepareOptions

        data = self.recipe.data
        return expected_vocab_size(data.tokenizer or find_corpus(PrepareOptions(corpus=data.corpus)).tokenizer)

    def parts(self) -> tuple[Graph, Schedule, torch.device]:
        """The recipe's graph and noise, and the device."""
        return make_graph(self.recipe, self._vocabulary()), self.recipe.noise.make(), pick_device(self.device)

    def tokens(self, device: torch.device) -> torch.Tensor:
        """Random token ids [B, L]."""
        shape = self.batch, self.recipe.model.length
        generator = torch.Generator().manual_seed(0)
        return torch.randint(self._vocabulary(), shape, generator=generator).to(device)


def matmul_peak(device: torch.device) -> float:
    """FLOP/s of the fastest of some large bf16 products, measured here and now."""
    best = 0.0
    for size in (4096, 8192) if device.type == "cuda" else (1024, 2048, 4096):
        a, b = (torch.randn(size, size, device=device).bfloat16() for _ in range(2))
        for _ in range(12):
            wait(device)
            began = time.perf_counter()
            a @ b
            wait(device)
            best = max(best, 2 * size**3 / (time.perf_counter() - began))
    return best


def bench_train(options: ModelBench) -> Iterator[Event]:
    """A whole optimizer step: ours, against float32 autograd over all scores, torch's own AdamW and a plain EMA."""
    graph, schedule, device = options.parts()
    x0, peak = options.tokens(device), matmul_peak(device)
    recipe = _one_batch(options)
    state = TrainState.create(
        recipe, SimpleNamespace(tokenizer=SimpleNamespace(vocab_size=graph.vocab_size)), Dist(0, 1, device), anew=True
    )
    yield from map(Note, state.notices)
    state.model.net.train()

    def fast() -> int:
        gradients(state, x0, range(len(x0)))
        torch.nn.utils.clip_grad_norm_(state.model.net.parameters(), recipe.train.clip)
        state.update()
        return x0.numel()

    flops = flops_a_token(recipe.model, graph, schedule)
    facts = facts_of(options, peak, flops) | {"attention": state.model.net.kernel(), "compiled": state.compiled}
    for event in compare("train", {"sedd": fast, "plain": _plain_step(options)}, options, facts, str(device), True):
        if isinstance(event, Finished):
            result = shares(event.result, device)
            rate = result["paths"]["sedd"]["tokens_per_second"]
            whole = options.recipe.train.steps * options.recipe.train.batch * recipe.model.length
            event = Finished(result | {"recipe_hours_here": whole / rate / 3600})
        yield event


def _one_batch(options: ModelBench) -> Recipe:
    train = dataclasses.replace(options.recipe.train, batch=options.batch, micro_batch=None, optimizer="adamw")
    return dataclasses.replace(options.recipe, train=train, init_from=None)


def _plain_step(options: ModelBench) -> Callable[[], int]:
    """A training step as a first script would have it."""
    graph, schedule, device = options.parts()
    x0, plan = options.tokens(device), options.recipe.train
    net = DiT(options.recipe.model, graph.states).to(device).train()
    optimizer = torch.optim.AdamW(net.parameters(), lr=plan.lr, weight_decay=0.0)
    shadow = [p.detach().clone() for p in net.parameters()]
    index, count = torch.arange(len(x0)), 0

    def step() -> int:
        nonlocal count
        optimizer.zero_grad()
        v = Stream(0, TIME, index).uniform(count).to(device)
        u = Stream(0, NOISE, index.to(device)).uniforms(count, x0.shape[1])[0]
        plain.loss(net, graph, schedule, x0, v, u).backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), plan.clip)
        optimizer.step()
        with torch.no_grad():
            for kept, p in zip(shadow, net.parameters(), strict=True):
                kept.sub_((1 - plan.ema) * (kept - p))
        count += 1
        return x0.numel()

    return step


def bench_loss(options: ModelBench) -> Iterator[Event]:
    """Head and loss with all their gradients, from the trunk's output; memory beyond inputs and gradients."""
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
    for leaf in leaves:  # their gradients are held by both paths
        leaf.grad = torch.zeros_like(leaf)

    def fast() -> int:
        at = graph.active(x).nonzero(as_tuple=True)
        targets = Targets(x[at], x0[at], sigma[at[0]])
        weights = torch.ones(len(at[0]), dtype=torch.float64, device=device)
        weighted_loss(Readout(weight, bias, mixed), kernels_of(graph), hidden[at], targets, weights)[0].backward()
        return x0.numel()

    def slow() -> int:
        plain.head_loss(hidden, weight, bias, graph, sigma, x, x0).backward()
        return x0.numel()

    # useful are the products at active rows alone
    flops = 6 * float(graph.active(x).double().mean()) * dim * graph.states
    facts = facts_of(options, peak, flops)
    for event in compare("loss", {"sedd": fast, "plain": slow}, options, facts, str(device), True):
        if isinstance(event, Finished):
            paths = event.result["paths"]
            handed_over = sum(leaf.numel() * leaf.element_size() for leaf in leaves) / 2**20
            for found in paths.values():
                # a backward pass hands its gradients over before they are added to those that are held
                found["beyond_gradients_mib"] = found["extra_mib"] - handed_over
            event = Finished(shares(event.result, device))
        yield event


def facts_of(options: ModelBench, peak: float, flops: float) -> dict[str, Any]:
    """What is measured, for the report: the network, its precision, the peak and the useful FLOPs a token."""
    shape = {"recipe": options.recipe.name, "batch": options.batch, "length": options.recipe.model.length}
    low = autocast_dtype(options.recipe.train.precision, pick_device(options.device))
    shape |= {"precision": "bf16" if low else "fp32", "network": dataclasses.asdict(options.recipe.model)}
    return shape | {"bf16_matmul_peak": peak, "useful_flops_per_token": flops}


def shares(result: dict[str, Any], device: torch.device) -> dict[str, Any]:
    """Every path's useful FLOP/s, their share of the peak, measured before and after, and of the data sheet's peak."""
    measured = result["bf16_matmul_peak"] = max(result["bf16_matmul_peak"], matmul_peak(device))
    known = known_peak(device)
    for found in result["paths"].values():
        useful = found.get("useful_flops_per_token", result["useful_flops_per_token"])
        found["flops"] = found["tokens_per_second"] * useful
        found["share_of_measured_peak"] = found["flops"] / measured
        if known:
            found["mfu"] = found["flops"] / known
    return result
