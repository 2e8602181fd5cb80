"""Useful floating-point operations of training, and the peak rates of devices."""

from __future__ import annotations

import re

import torch

from sedd_cli.core.graphs import Graph
from sedd_cli.core.losses import Objective
from sedd_cli.core.schedules import Schedule
from sedd_cli.models.shape import DiTConfig
from sedd_cli.recipe import Recipe

#: Dense bf16 peaks in FLOP/s by words of the device name, from the vendors' data sheets; the first match counts.
PEAKS = {
    "B200": 2.25e15,
    "GH200": 989e12,
    "H200 NVL": 835e12,
    "H200": 989e12,
    "H100 NVL": 835e12,
    "H100 PCIe": 756e12,
    "H100": 989e12,
    "H800 PCIe": 756e12,
    "H800": 989e12,
    "A100": 312e12,
    "A800": 312e12,
    "L40S": 362e12,
    "L40": 181e12,
    "L4": 121e12,
    "A10G": 70e12,
    "A10": 125e12,
    "A6000": 155e12,
    "RTX 4090": 165e12,
    "RTX 3090": 71e12,
}


def known_peak(device: torch.device) -> float | None:
    """The dense bf16 peak of a device in FLOP/s; None if it is not in PEAKS."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    return next((peak for words, peak in PEAKS.items() if re.search(rf"\b{words}(?![A-Z0-9])", name)), None)


def mean_active_share(objective: Objective, graph: Graph, schedule: Schedule) -> float:
    """Expected fraction of positions whose scores the loss needs, over the noise levels of a training."""
    v = (torch.arange(4096, dtype=torch.float64) + 0.5) / 4096
    return float(objective.active_share(graph, schedule, v).mean())


def flops_a_token(config: DiTConfig, objective: Objective, graph: Graph, schedule: Schedule) -> float:
    """Operations per token of text of the matrix products of a forward and backward pass over all its corruptions.

    Weights [m, n] cost 2mn forward and 4mn backward. The head counts only at positions whose scores the loss needs,
    attention over the whole length. Recomputed activations count once.
    """
    head = mean_active_share(objective, graph, schedule) * head_flops(config, graph)
    return 3 * objective.corruptions * (trunk_flops_a_token(config) + head)


def trunk_flops_a_token(config: DiTConfig) -> float:
    """Operations per token of the forward pass through all blocks at the trained length."""
    wide = config.hidden_size
    block = 12 * wide**2 + 2 * config.length * wide
    products = 6 * config.n_blocks + 2 if config.adaln else int(config.time)
    condition = config.cond_dim * products * wide / config.length
    return 2 * (config.n_blocks * block + condition)


def head_flops(config: DiTConfig, graph: Graph) -> int:
    """Operations of the scores at one position."""
    return 2 * config.hidden_size * graph.states


def training_flops(recipe: Recipe, graph: Graph) -> float:
    """Operations of a whole training."""
    tokens = recipe.train.steps * recipe.train.batch * recipe.model.length
    return tokens * flops_a_token(recipe.model, recipe.objective.make(), graph, recipe.noise.make())
