"""The bench of sampling: whole samples, against single steps of the plain sampler."""

from __future__ import annotations

import copy
import time
from collections.abc import Generator
from dataclasses import dataclass, replace
from functools import partial

import torch

from sedd_cli.bench import plain
from sedd_cli.bench.compare import BenchResult, compare
from sedd_cli.bench.model import ModelBenchOptions, baselines, matmul_peak, with_flops
from sedd_cli.core.conditioning import Conditioning
from sedd_cli.core.graphs import Graph
from sedd_cli.core.samplers import GRIDS, SAMPLERS
from sedd_cli.core.schedules import Schedule
from sedd_cli.core.score import ScoreModel
from sedd_cli.errors import RequestError
from sedd_cli.models.dit import DiT
from sedd_cli.models.precision import autocast_dtype, full_float32
from sedd_cli.models.timing import synchronize
from sedd_cli.system.events import Event, Progress
from sedd_cli.training.flops import head_flops, trunk_flops_a_token


@dataclass(frozen=True, kw_only=True)
class SampleBenchOptions(ModelBenchOptions):
    """Sampling over a grid of `steps`. normalized: the normalizer of the scores is 1."""

    batch: int = 1
    steps: int = 1024
    normalized: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.steps < 1:
            raise RequestError(f"steps must be at least 1, found {self.steps}")
        if self.recipe.objective.make().causal:
            raise RequestError(f"bench sample times diffusion models, found the objective {self.recipe.objective.name}")
        if self.recipe.graph.name not in plain.PUBLISHED:
            raise RequestError(
                f"bench sample times the published sampler, of the graphs {' and '.join(plain.PUBLISHED)}; "
                f"found {self.recipe.graph.name!r}"
            )
        if self.normalized and self.recipe.graph.name != "absorbing":
            raise RequestError(f"--normalized needs the absorbing graph, found {self.recipe.graph.name!r}")


def bench_sample(options: SampleBenchOptions) -> Generator[Event, None, BenchResult]:
    """Sample a batch with our sampler, and time steps of the plain Tweedie sampler spread over the grid.

    Rates are tokens per second of finished text. The total of a plain path is extrapolated: its median step times
    steps + 1.
    """
    graph, schedule, device = options.parts()
    length = options.recipe.model.length
    peak = matmul_peak(device)
    net, slow_net = fresh_nets(options)
    parametrization = "mean" if options.normalized else options.recipe.objective.make().parametrization
    score = ScoreModel(net, graph, schedule, parametrization=parametrization)
    sampler, index = SAMPLERS["tweedie"](steps=options.steps), torch.arange(options.batch, device=device)
    counts: dict[str, float | bool] = {}

    def fast() -> Generator[Progress, None, int]:
        evaluations, fallbacks = 0, 0
        with torch.no_grad():
            for now in sampler.run(score, Conditioning.nothing(options.batch, length, device), 0, index):
                evaluations, fallbacks = int(now.evaluations.max()), now.fallbacks
                yield Progress("sampling", now.step, now.steps, "step")
        counts["evaluations"], counts["fallbacks"] = evaluations, fallbacks
        return options.batch * length

    kinds = baselines(device)
    times: dict[str, list[float]] = {name: [] for name in kinds}

    @torch.no_grad()
    def slow(name: str) -> int:
        slow_net.autocast = kinds[name]
        times[name] += plain_seconds(slow_net, graph, schedule, options.batch, options.steps)
        return options.batch * length

    flops = trunk_flops_a_token(net.config), head_flops(net.config, graph)
    facts = options.facts(peak, flops[0]) | {"steps": options.steps, "normalized": options.normalized}
    facts["attention"] = net.kernel()
    paths = {"sedd": fast} | {name: partial(slow, name) for name in kinds}
    result = yield from compare("sample", paths, options, facts, str(device))
    # the first three steps are the warm-up
    steps = {name: sorted(seconds[3:]) for name, seconds in times.items()}
    medians = {name: seconds[len(seconds) // 2] for name, seconds in steps.items()}
    return with_flops(_extrapolated(result, medians, counts, flops, options), device)


def fresh_nets(options: ModelBenchOptions) -> tuple[DiT, DiT]:
    """A network with random weights as it samples, and its copy in float32 for the plain path."""
    graph, _, device = options.parts()
    net = DiT(options.recipe.model, graph.states).to(device).eval().requires_grad_(False)
    with torch.no_grad():  # a fresh head has output 0; the normalizers of a trained network scatter around 1
        generator = torch.Generator().manual_seed(2)
        net.output_layer.linear.weight.copy_(
            0.02 * torch.randn(graph.states, net.config.hidden_size, generator=generator)
        )
    slow_net = copy.deepcopy(net)
    net.cast_for_inference(autocast_dtype(options.recipe.train.precision, device))
    return net, slow_net


@full_float32()
def plain_seconds(
    net: DiT, graph: Graph, schedule: Schedule, batch: int, steps: int, shares: tuple[float, ...] = (0.1, 0.5, 0.9)
) -> list[float]:
    """Seconds of single steps of the plain sampler, at these shares of a grid of `steps`."""
    length, device = net.config.length, net.vocab_embed.embedding.device
    grid, times = GRIDS["linear"](schedule, steps).tolist(), []
    for share in shares:
        k = min(int(share * steps), steps - 1)
        known = torch.rand(batch, length, device=device) < share
        x = torch.where(known, 0, graph.sample_base(torch.rand(known.shape, device=device)))
        synchronize(device)
        began = time.perf_counter()
        plain.tweedie_step(net, graph, schedule, x, grid[k], grid[k + 1])
        synchronize(device)
        times.append(time.perf_counter() - began)
    return times


def _extrapolated(
    result: BenchResult,
    times: dict[str, float],
    counts: dict[str, float | bool],
    flops: tuple[float, float],
    options: SampleBenchOptions,
) -> BenchResult:
    """The rates of plain paths from the seconds of their steps, and all paths' seconds per evaluation.

    flops: useful FLOPs per token of the trunk, in each evaluation, and of the head. It is needed once for each sample,
    and in every evaluation on a graph without MASK, where every position may change each time.
    """
    paths, evaluations = {"sedd": result.paths["sedd"]}, options.steps + 1
    seconds = {"sedd": result.tokens / paths["sedd"].tokens_per_second}
    details = {"sedd": counts | {"seconds": seconds["sedd"], "extrapolated": False}}
    for name, step in times.items():
        seconds[name] = step * evaluations
        rate = result.tokens / seconds[name]
        paths[name] = replace(result.paths[name], tokens_per_second=rate, runs=[rate])
        details[name] = {"evaluations": evaluations, "seconds": seconds[name], "extrapolated": True}
    for found in details.values():
        found["seconds_per_evaluation"] = found["seconds"] / found["evaluations"]
        heads = 1 if options.recipe.graph.name == "absorbing" else found["evaluations"]
        found["useful_flops_per_token"] = found["evaluations"] * flops[0] + heads * flops[1]
    per_evaluation = details["plain"]["seconds_per_evaluation"] / details["sedd"]["seconds_per_evaluation"]
    result = replace(result, paths=paths, ratio=seconds["plain"] / seconds["sedd"])
    return result.with_details(details, ratio_per_evaluation=per_evaluation)
