"""The bench of a training step."""

from __future__ import annotations

import dataclasses
from collections.abc import Generator
from functools import partial

import torch

from sedd_cli.bench import plain
from sedd_cli.bench.compare import BenchResult, compare
from sedd_cli.bench.model import ModelBenchOptions, baselines, matmul_peak, with_flops
from sedd_cli.core.random import NOISE, TIME, Stream
from sedd_cli.models.dit import DiT
from sedd_cli.models.precision import full_float32
from sedd_cli.recipe import Recipe
from sedd_cli.recipe.assemble import learned_exponents
from sedd_cli.system.distributed import Dist
from sedd_cli.system.events import Event, Note
from sedd_cli.training.flops import flops_a_token
from sedd_cli.training.state import TrainState, without_text
from sedd_cli.training.step import gradients


def bench_train(options: ModelBenchOptions) -> Generator[Event, None, BenchResult]:
    """A step with AdamW, against autograd over all scores with a plain EMA.

    That is in float32, and also under bf16 autocast where bf16 is native. The recipe's duration follows from the rate,
    where AdamW is its optimizer.
    """
    graph, schedule, device = options.parts()
    x0, peak = options.tokens(device), matmul_peak(device)
    state = fresh_state(options)
    recipe = state.recipe
    yield from map(Note, state.notices)
    if (wanted := options.recipe.train.optimizer) != recipe.train.optimizer:
        yield Note(f"timed with {recipe.train.optimizer}: the recipe, which has {wanted}, may take longer")
    state.model.net.train()

    def fast() -> int:
        gradients(state, x0, range(len(x0)))
        torch.nn.utils.clip_grad_norm_(state.model.net.parameters(), recipe.train.clip)
        state.update()
        return x0.numel()

    flops = flops_a_token(recipe.model, recipe.objective.make(), graph, schedule)
    facts = options.facts(peak, flops) | {"attention": state.model.net.kernel(), "compiled": state.compiled}
    slow = PlainTraining(options)
    paths = {"sedd": fast} | {name: partial(slow.step, dtype) for name, dtype in baselines(device).items()}
    result = with_flops((yield from compare("train", paths, options, facts, str(device), steady=True)), device)
    if recipe.train.optimizer != options.recipe.train.optimizer:
        return result
    tokens = options.recipe.train.steps * options.recipe.train.batch * recipe.model.length
    hours = tokens / result.paths["sedd"].tokens_per_second / 3600
    return result.with_details({}, recipe_hours_here=hours)


def fresh_state(options: ModelBenchOptions, compiled: bool | None = None) -> TrainState:
    """The state before the first step, with random weights and without a corpus. compiled: None as in the recipe."""
    graph, _, device = options.parts()
    recipe = one_batch(options.recipe, options.batch)
    if compiled is not None:
        recipe = dataclasses.replace(recipe, train=dataclasses.replace(recipe.train, compile=compiled))
    return TrainState.create(recipe, without_text(graph.vocab_size), Dist(0, 1, device), anew=True)


def one_batch(recipe: Recipe, batch: int) -> Recipe:
    """The recipe with AdamW, a step of one micro-batch and without initial weights."""
    train = dataclasses.replace(recipe.train, batch=batch, micro_batch=None, optimizer="adamw", start="random")
    return dataclasses.replace(recipe, train=train, init_from=None)


class PlainTraining:
    """A training of the recipe's objective as a simple script does it."""

    def __init__(self, options: ModelBenchOptions):
        graph, schedule, device = options.parts()
        config, objective = options.recipe.train, options.recipe.objective.make()
        learned = learned_exponents(objective, graph)
        self._x0, self._clip, self._decay = options.tokens(device), config.clip, config.ema
        self._parts = objective, graph, schedule
        self._net = DiT(options.recipe.model, graph.states, None, objective.causal, exponents=learned)
        self._net.to(device).train()
        self._optimizer = torch.optim.AdamW(self._net.parameters(), lr=config.lr, weight_decay=0.0)
        self._ema = [p.detach().clone() for p in self._net.parameters()]
        self._count = 0

    @full_float32()
    def step(self, autocast: torch.dtype | None = None) -> int:
        """A step, in float32 or under autocast. Returns the number of tokens."""
        (objective, graph, schedule), x0, net = self._parts, self._x0, self._net
        index, width, net.autocast = torch.arange(len(x0)), objective.corruptions * x0.shape[1], autocast
        self._optimizer.zero_grad()
        v = Stream(0, TIME, index).uniform(self._count).to(x0.device)
        u = Stream(0, NOISE, index.to(x0.device)).uniforms(self._count, width)[0]
        plain.training_loss(objective, net, graph, schedule, x0, v, u).backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), self._clip)
        self._optimizer.step()
        with torch.no_grad():
            for average, p in zip(self._ema, net.parameters(), strict=True):
                average.sub_((1 - self._decay) * (average - p))
        self._count += 1
        return x0.numel()
