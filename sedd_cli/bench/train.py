"""The bench of a training step."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Generator
from types import SimpleNamespace
from typing import cast

import torch

from sedd_cli.bench import plain
from sedd_cli.bench.compare import BenchResult, compare
from sedd_cli.bench.model import ModelBenchOptions, matmul_peak, with_flops
from sedd_cli.core.random import NOISE, TIME, Stream
from sedd_cli.data.shards import Dataset
from sedd_cli.models.dit import DiT
from sedd_cli.recipe import Recipe
from sedd_cli.recipe.assemble import learned_exponents
from sedd_cli.system.distributed import Dist
from sedd_cli.system.events import Event, Note
from sedd_cli.training.flops import flops_a_token
from sedd_cli.training.state import TrainState
from sedd_cli.training.step import gradients


def bench_train(options: ModelBenchOptions) -> Generator[Event, None, BenchResult]:
    """A step with AdamW, against float32 autograd over all scores with a plain EMA.

    The recipe's duration follows from the rate, where AdamW is its optimizer.
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

    objective = recipe.objective.make()
    flops = flops_a_token(recipe.model, graph, schedule, objective.causal, objective.corruptions)
    facts = options.facts(peak, flops) | {"attention": state.model.net.kernel(), "compiled": state.compiled}
    paths = {"sedd": fast, "plain": plain_step(options)}
    result = with_flops((yield from compare("train", paths, options, facts, str(device), steady=True)), device)
    if recipe.train.optimizer != options.recipe.train.optimizer:
        return result
    tokens = options.recipe.train.steps * options.recipe.train.batch * recipe.model.length
    hours = tokens / result.paths["sedd"].tokens_per_second / 3600
    return result.with_details({}, recipe_hours_here=hours)


def fresh_state(options: ModelBenchOptions, compiled: bool | None = None) -> TrainState:
    """The state before the first step, with random weights and without a corpus. compiled: None as in the recipe."""
    graph, _, device = options.parts()
    # of a dataset, only the vocabulary size is used
    dataset = cast(Dataset, SimpleNamespace(tokenizer=SimpleNamespace(vocab_size=graph.vocab_size)))
    recipe = one_batch(options.recipe, options.batch)
    if compiled is not None:
        recipe = dataclasses.replace(recipe, train=dataclasses.replace(recipe.train, compile=compiled))
    return TrainState.create(recipe, dataset, Dist(0, 1, device), anew=True)


def one_batch(recipe: Recipe, batch: int) -> Recipe:
    """The recipe with AdamW, a step of one micro-batch and without initial weights."""
    train = dataclasses.replace(recipe.train, batch=batch, micro_batch=None, optimizer="adamw", start="random")
    return dataclasses.replace(recipe, train=train, init_from=None)


def plain_step(options: ModelBenchOptions, autocast: torch.dtype | None = None) -> Callable[[], int]:
    """A training step of the recipe's objective as a simple script does it, in float32 or under autocast."""
    graph, schedule, device = options.parts()
    x0, config, objective = options.tokens(device), options.recipe.train, options.recipe.objective.make()
    learned, width = learned_exponents(objective, graph), objective.corruptions * x0.shape[1]
    net = DiT(options.recipe.model, graph.states, autocast, objective.causal, exponents=learned).to(device).train()
    optimizer = torch.optim.AdamW(net.parameters(), lr=config.lr, weight_decay=0.0)
    ema = [p.detach().clone() for p in net.parameters()]
    index, count = torch.arange(len(x0)), 0

    def step() -> int:
        nonlocal count
        optimizer.zero_grad()
        v = Stream(0, TIME, index).uniform(count).to(device)
        u = Stream(0, NOISE, index.to(device)).uniforms(count, width)[0]
        plain.training_loss(objective, net, graph, schedule, x0, v, u).backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), config.clip)
        optimizer.step()
        with torch.no_grad():
            for average, p in zip(ema, net.parameters(), strict=True):
                average.sub_((1 - config.ema) * (average - p))
        count += 1
        return x0.numel()

    return step
