"""Useful floating point operations of a training step, and what devices can do at most."""

from __future__ import annotations

import torch

from sedd_cli.core.bounds import T_MIN
from sedd_cli.core.graphs import Graph
from sedd_cli.core.schedules import Schedule
from sedd_cli.models.dit import DiTConfig
from sedd_cli.recipe import Recipe

#: Dense bf16 peaks in FLOP/s by a part of the device's name, from the makers' data sheets; the first match counts.
PEAKS = {
    "B200": 2.25e15,
    "GH200": 989e12,
    "H200": 989e12,
    "H100 PCIe": 756e12,
    "H100": 989e12,
    "H800": 989e12,
    "A100": 312e12,
    "A800": 312e12,
    "L40S": 362e12,
    "L4": 121e12,
    "A10G": 70e12,
    "A10": 125e12,
    "A6000": 155e12,
    "RTX 4090": 165e12,
    "RTX 3090": 71e12,
}


def known_peak(device: torch.device) -> float | None:
    """The device's dense bf16 peak, FLOP/s; None where it is not in the table."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    return next((peak for part, peak in PEAKS.items() if part in name), None)


def mean_active_share(graph: Graph, schedule: Schedule, causal: bool = False) -> float:
    """Share of positions whose outputs training needs, over t ~ U(t_min, 1); all of them from left to right."""
    if causal:
        return 1.0
    t = T_MIN + (1 - T_MIN) * (torch.arange(4096, dtype=torch.float64) + 0.5) / 4096
    return float(graph.active_share(schedule(t)[0]).mean())


def flops_a_token(config: DiTConfig, graph: Graph, schedule: Schedule, causal: bool = False) -> float:
    """Forward and backward pass of the matrix products that the loss needs, per token.

    A product of weights [m, n] costs 2mn forward and twice that backward. The head counts at the positions whose
    score is needed, attention over the whole length; recomputed activations count once.
    """
    return 3 * (trunk_flops_a_token(config) + mean_active_share(graph, schedule, causal) * head_flops(config, graph))


def trunk_flops_a_token(config: DiTConfig) -> float:
    """The forward pass of all blocks, per token of a block of the trained length."""
    wide = config.hidden_size
    block = 12 * wide**2 + 2 * config.length * wide
    condition = config.cond_dim * (6 * config.n_blocks + 2) * wide / config.length
    return 2 * (config.n_blocks * block + condition)


def head_flops(config: DiTConfig, graph: Graph) -> int:
    """The scores of one position."""
    return 2 * config.hidden_size * graph.states


def training_flops(recipe: Recipe, graph: Graph) -> float:
    """`flops_a_token` for every token of every step of a recipe."""
    tokens = recipe.train.steps * recipe.train.batch * recipe.model.length
    return tokens * flops_a_token(recipe.model, graph, recipe.noise.make(), recipe.objective.make().causal)
