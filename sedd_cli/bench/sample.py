"""The bench of sampling: the fast path from end to end, against steps of the plain one."""

from __future__ import annotations

import copy
import time
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from typing import Any

import torch

from sedd_cli.bench import plain
from sedd_cli.bench.compare import compare, wait
from sedd_cli.bench.model import ModelBench, facts_of, matmul_peak, shares
from sedd_cli.core.conditioning import Conditioning
from sedd_cli.core.samplers import GRIDS, SAMPLERS
from sedd_cli.core.score import ScoreModel
from sedd_cli.errors import RequestError
from sedd_cli.models.dit import DiT
from sedd_cli.models.precision import autocast_dtype
from sedd_cli.system.events import Event, Finished, Progress
from sedd_cli.training.flops import head_flops, trunk_flops_a_token


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
    graph, schedule, device = options.parts()
    length = options.recipe.model.length
    peak = matmul_peak(device)
    net = DiT(options.recipe.model, graph.states).to(device).eval().requires_grad_(False)
    with torch.no_grad():  # a fresh head scores 0 everywhere; normalisers of trained networks scatter around 1
        generator = torch.Generator().manual_seed(2)
        net.output_layer.linear.weight.copy_(
            0.02 * torch.randn(graph.states, net.config.hidden_size, generator=generator)
        )
    slow_net = copy.deepcopy(net)
    net.autocast = autocast_dtype(options.recipe.train.precision, device)
    net.cast_for_inference()
    score = ScoreModel(net, graph, schedule, mean=options.normalized)
    sampler, index = SAMPLERS["tweedie"](steps=options.steps), torch.arange(options.batch, device=device)
    told = {}

    def fast() -> Generator[Progress, None, int]:
        with torch.no_grad():
            for now in sampler.run(score, Conditioning.nothing(options.batch, length, device), 0, index):
                yield Progress("sampling", now.step, now.steps, "step")
        told["evaluations"], told["fallbacks"] = int(now.evaluations.max()), now.fallbacks
        return options.batch * length

    times: list[float] = []

    @torch.no_grad()
    def slow() -> int:
        grid = GRIDS["linear"](schedule, options.steps).tolist()
        for share in (0.1, 0.5, 0.9):
            k = min(int(share * options.steps), options.steps - 1)
            kept = torch.rand(options.batch, length, device=device) < share
            x = torch.where(kept, 0, graph.sample_base(torch.rand(kept.shape, device=device)))
            began = time.perf_counter()
            plain.analytic_step(slow_net, graph, schedule, x, grid[k], grid[k + 1])
            wait(device)
            times.append(time.perf_counter() - began)
        return options.batch * length

    flops = trunk_flops_a_token(net.config), head_flops(net.config, graph)
    facts = facts_of(options, peak, flops[0]) | {"steps": options.steps, "normalized": options.normalized}
    facts["attention"] = net.kernel()
    for event in compare("sample", {"sedd": fast, "plain": slow}, options, facts, str(device)):
        if isinstance(event, Finished):
            event = Finished(shares(_sampling(event.result, times[3:], told, flops, options), device))
        yield event


def _sampling(
    result: dict[str, Any], times: list[float], told: dict[str, int], flops: tuple[float, float], options: SampleBench
) -> dict[str, Any]:
    """The plain path's rate from its steps, and both paths' times per evaluation and per sample.

    Useful are, of each evaluation, the trunk's products (flops[0] a token), and the head's once a token (flops[1]).
    """
    fast, slow = result["paths"]["sedd"], result["paths"]["plain"]
    step = sorted(times)[len(times) // 2]
    slow |= {"evaluations": options.steps + 1, "seconds": step * (options.steps + 1), "extrapolated": True}
    slow |= {"tokens_per_second": result["tokens"] / slow["seconds"], "runs": [result["tokens"] / slow["seconds"]]}
    fast |= told | {"seconds": result["tokens"] / fast["tokens_per_second"], "extrapolated": False}
    for found in (fast, slow):
        found["seconds_per_evaluation"] = found["seconds"] / found["evaluations"]
        found["useful_flops_per_token"] = found["evaluations"] * flops[0] + flops[1]
    ratio = slow["seconds"] / fast["seconds"]
    per_evaluation = slow["seconds_per_evaluation"] / fast["seconds_per_evaluation"]
    return result | {"ratio": ratio, "ratio_per_evaluation": per_evaluation}
