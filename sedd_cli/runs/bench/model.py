"""Benches of the model: a training step, the loss alone, sampling; each against the plain way to do it."""

from __future__ import annotations

import copy
import dataclasses
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch

from sedd_cli.core.conditioning import Given
from sedd_cli.core.fused import Targets, weighted_loss
from sedd_cli.core.graphs import Graph
from sedd_cli.core.noises import Noise
from sedd_cli.core.random import NOISE, TIME, Stream
from sedd_cli.core.samplers import SAMPLERS, linear_grid
from sedd_cli.core.score import ScoreModel
from sedd_cli.errors import RequestError
from sedd_cli.nets.dit import DiT
from sedd_cli.nets.head import Readout
from sedd_cli.nets.precision import autocast_dtype
from sedd_cli.recipe import Recipe
from sedd_cli.runs.assemble import expected_vocab_size, make_graph
from sedd_cli.runs.bench import plain
from sedd_cli.runs.bench.compare import BenchOptions, compare
from sedd_cli.runs.dist import Dist, pick_device
from sedd_cli.runs.events import Event, Finished, Note, Progress
from sedd_cli.runs.flops import flops_a_token, known_peak
from sedd_cli.runs.step import gradients
from sedd_cli.runs.trainstate import TrainState


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
        from sedd_cli.runs.datasets import PrepareOptions
        from sedd_cli.text.corpora import find_corpus

        data = self.recipe.data
        return expected_vocab_size(data.tokenizer or find_corpus(PrepareOptions(corpus=data.corpus)).tokenizer)

    def parts(self) -> tuple[Graph, Noise, torch.device]:
        """The recipe's graph and noise, and the device."""
        return make_graph(self.recipe, self._vocabulary()), self.recipe.noise.make(), pick_device(self.device)

    def tokens(self, device: torch.device) -> torch.Tensor:
        """Random token ids [B, L]."""
        shape = self.batch, self.recipe.model.length
        generator = torch.Generator().manual_seed(0)
        return torch.randint(self._vocabulary(), shape, generator=generator).to(device)


def matmul_peak(device: torch.device) -> float:
    """FLOP/s of the fastest of some large bf16 products, measured here and now."""
    size = 8192 if device.type == "cuda" else 2048
    a, b = (torch.randn(size, size, device=device).bfloat16() for _ in range(2))
    best = float("inf")
    for _ in range(12):
        _wait(device)
        began = time.perf_counter()
        a @ b
        _wait(device)
        best = min(best, time.perf_counter() - began)
    return 2 * size**3 / best


def bench_train(options: ModelBench) -> Iterator[Event]:
    """A whole optimizer step: ours, against float32 autograd over all scores, AdamW and EMA tensor by tensor."""
    graph, noise, device = options.parts()
    x0, peak = options.tokens(device), matmul_peak(device)
    recipe = _one_batch(options)
    state = TrainState.create(
        recipe, SimpleNamespace(tokenizer=SimpleNamespace(vocab_size=graph.tokens)), Dist(0, 1, device), anew=True
    )
    if state.notice:
        yield Note(state.notice)
    state.model.net.train()

    def fast() -> int:
        gradients(state, x0, range(len(x0)))
        torch.nn.utils.clip_grad_norm_(state.model.net.parameters(), recipe.train.clip)
        state.update()
        return x0.numel()

    flops = flops_a_token(recipe.model, graph, noise)
    facts = _facts(options, peak, flops)
    for event in compare("train", {"sedd": fast, "plain": _plain_step(options)}, options, facts, str(device), True):
        if isinstance(event, Finished):
            result = _shares(event.result, peak, known_peak(device))
            rate = result["paths"]["sedd"]["tokens_per_second"]
            whole = options.recipe.train.steps * options.recipe.train.batch * recipe.model.length
            event = Finished(result | {"recipe_hours_here": whole / rate / 3600})
        yield event


def _one_batch(options: ModelBench) -> Recipe:
    train = dataclasses.replace(
        options.recipe.train, batch=options.batch, micro_batch=None, optimizer="adamw", precision="auto"
    )
    return dataclasses.replace(options.recipe, train=train)


def _plain_step(options: ModelBench) -> Callable[[], int]:
    """A training step as a first script would have it."""
    graph, noise, device = options.parts()
    x0, plan = options.tokens(device), options.recipe.train
    net = DiT(options.recipe.model, graph.states).to(device).train()
    optimizer = torch.optim.AdamW(net.parameters(), lr=plan.lr, weight_decay=0.0, foreach=False)
    shadow = [p.detach().clone() for p in net.parameters()]
    index, count = torch.arange(len(x0)), 0

    def step() -> int:
        nonlocal count
        optimizer.zero_grad()
        v = Stream(0, TIME, index).uniform(count).to(device)
        u = Stream(0, NOISE, index.to(device)).uniforms(count, x0.shape[1])[0]
        plain.loss(net, graph, noise, x0, v, u).backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), plan.clip, foreach=False)
        optimizer.step()
        with torch.no_grad():
            for kept, p in zip(shadow, net.parameters(), strict=True):
                kept.sub_((1 - plan.ema) * (kept - p))
        count += 1
        return x0.numel()

    return step


def bench_loss(options: ModelBench) -> Iterator[Event]:
    """Head and loss with all their gradients, from the trunk's output; memory beyond inputs and gradients."""
    graph, noise, device = options.parts()
    x0, peak, dim = options.tokens(device), matmul_peak(device), options.recipe.model.hidden_size
    generator = torch.Generator().manual_seed(1)
    weight = (0.02 * torch.randn(graph.states, dim, generator=generator)).to(device).requires_grad_()
    bias = torch.zeros(graph.states, device=device, requires_grad=True)
    hidden = torch.randn(*x0.shape, dim, generator=generator).to(device).requires_grad_()
    v = (torch.arange(len(x0), device=device).double() + 0.5) / len(x0)
    sigma = noise(v)[0]
    u = torch.rand(x0.shape, dtype=torch.float64, generator=generator).to(device)
    x = graph.perturb(x0, sigma, u)
    leaves = weight, bias, hidden
    mixed = autocast_dtype("auto", device) is not None
    for leaf in leaves:  # their gradients are held by both paths
        leaf.grad = torch.zeros_like(leaf)

    def fast() -> int:
        at = graph.active(x).nonzero(as_tuple=True)
        targets = Targets(x[at], x0[at], sigma[at[0]])
        weights = torch.ones(len(at[0]), dtype=torch.float64, device=device)
        weighted_loss(Readout(weight, bias, mixed), graph, hidden[at], targets, weights)[0].backward()
        return x0.numel()

    def slow() -> int:
        plain.head_loss(hidden, weight, bias, graph, sigma, x, x0).backward()
        return x0.numel()

    # useful are the products at active rows alone
    flops = 6 * float(graph.active(x).double().mean()) * dim * graph.states
    facts = _facts(options, peak, flops)
    for event in compare("loss", {"sedd": fast, "plain": slow}, options, facts, str(device)):
        if isinstance(event, Finished):
            paths = event.result["paths"]
            handed_over = sum(leaf.numel() * leaf.element_size() for leaf in leaves) / 2**20
            for found in paths.values():
                # a backward pass hands its gradients over before they are added to those that are held
                found["beyond_gradients_mib"] = max(0.0, found["extra_mib"] - handed_over)
            event = Finished(_shares(event.result, peak, known_peak(device)))
        yield event


@dataclass(frozen=True)
class SampleBench(ModelBench):
    """Sampling over a grid of `steps`."""

    batch: int = 1
    steps: int = 1024
    normalized: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.steps < 1:
            raise RequestError(f"steps must be at least 1, found {self.steps}")
        if self.normalized and self.recipe.graph.name != "absorbing":
            raise RequestError(f"--normalized means nothing with the graph {self.recipe.graph.name!r}")


def bench_sample(options: SampleBench) -> Iterator[Event]:
    """Sampling a whole batch: ours from end to end, the plain analytic path by steps spread over the grid.

    Both are told as tokens per second of finished text; `per_evaluation` is the time of one network evaluation of the
    batch. The plain path's total is its median step times steps + 1.
    """
    graph, noise, device = options.parts()
    length = options.recipe.model.length
    peak = matmul_peak(device)
    net = DiT(options.recipe.model, graph.states).to(device).eval().requires_grad_(False)
    slow_net = copy.deepcopy(net)
    net.autocast = autocast_dtype("auto", device)
    net.hold_low()
    score = ScoreModel(net, graph, noise, normalized=options.normalized)
    sampler, index = SAMPLERS["tweedie"](steps=options.steps), torch.arange(options.batch, device=device)
    evaluations = {}

    def fast() -> Generator[Progress, None, int]:
        with torch.no_grad():
            for now in sampler.run(score, Given.nothing(options.batch, length, device), 0, index):
                yield Progress("sampling", now.step, now.steps, "steps")
        evaluations["sedd"] = int(now.evaluations.max())
        return options.batch * length

    times: list[float] = []

    @torch.no_grad()
    def slow() -> int:
        grid = linear_grid(options.steps).tolist()
        for share in (0.1, 0.5, 0.9):
            k = min(int(share * options.steps), options.steps - 1)
            kept = torch.rand(options.batch, length, device=device) < share
            x = torch.where(kept, 0, graph.sample_base(torch.rand(kept.shape, device=device)))
            began = time.perf_counter()
            plain.analytic_step(slow_net, graph, noise, x, grid[k], grid[k + 1])
            _wait(device)
            times.append(time.perf_counter() - began)
        return options.batch * length

    facts = _facts(options, peak, 0.0) | {"steps": options.steps, "normalized": options.normalized}
    for event in compare("sample", {"sedd": fast, "plain": slow}, options, facts, str(device)):
        if isinstance(event, Finished):
            event = Finished(_sampling(event.result, times[3:], evaluations["sedd"], options))
        yield event


def _sampling(result: dict[str, Any], times: list[float], evaluations: int, options: SampleBench) -> dict[str, Any]:
    """The plain path's rate from its steps, and both paths' times per evaluation and per sample."""
    fast, slow = result["paths"]["sedd"], result["paths"]["plain"]
    step = sorted(times)[len(times) // 2]
    slow |= {"evaluations": options.steps + 1, "seconds": step * (options.steps + 1), "extrapolated": True}
    slow |= {"tokens_per_second": result["tokens"] / slow["seconds"], "runs": [result["tokens"] / slow["seconds"]]}
    fast |= {"evaluations": evaluations, "seconds": result["tokens"] / fast["tokens_per_second"], "extrapolated": False}
    for found in (fast, slow):
        found["seconds_per_evaluation"] = found["seconds"] / found["evaluations"]
    ratio = slow["seconds"] / fast["seconds"]
    per_evaluation = slow["seconds_per_evaluation"] / fast["seconds_per_evaluation"]
    return result | {"ratio": ratio, "ratio_per_evaluation": per_evaluation}


def _facts(options: ModelBench, peak: float, flops: float) -> dict[str, Any]:
    shape = {"recipe": options.recipe.name, "batch": options.batch, "length": options.recipe.model.length}
    return shape | {"bf16_matmul_peak": peak, "useful_flops_per_token": flops}


def _shares(result: dict[str, Any], measured: float, known: float | None) -> dict[str, Any]:
    """Every path's useful FLOP/s, and their share of the peak measured here and of the data sheet's."""
    for found in result["paths"].values():
        found["flops"] = found["tokens_per_second"] * result["useful_flops_per_token"]
        found["share_of_measured_peak"] = found["flops"] / measured
        if known:
            found["mfu"] = found["flops"] / known
    return result


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
