"""From a recipe or a checkpoint's configuration to the objects it names."""

from __future__ import annotations

import math

import torch

from sedd_cli.core.graphs import Graph
from sedd_cli.errors import RequestError
from sedd_cli.models.dit import DiT
from sedd_cli.models.precision import autocast_dtype
from sedd_cli.recipe import Recipe


def make_graph(recipe: Recipe, vocab_size: int) -> Graph:
    """The recipe's graph over the tokenizer's N tokens."""
    return recipe.graph.make(vocab_size=vocab_size)


def make_net(recipe: Recipe, graph: Graph, device: torch.device) -> DiT:
    """A fresh network, initialised by the recipe's seed: the same on every machine and process."""
    objective = recipe.objective.make()
    try:
        objective.check(graph)
    except ValueError as error:
        raise RequestError(f"objective: {error}") from None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        net = DiT(recipe.model, graph.states, causal=objective.causal)
    net.autocast = autocast_dtype(recipe.train.precision, device)
    net = net.to(device)
    if recipe.model.attention == "flash" and net.kernel() != "flash":
        raise RequestError(
            "model.attention: flash needs a GPU of compute capability 8.0 or more, bf16, the flash-attn package and a "
            "head size that is a multiple of 8 up to 256; auto and sdpa run everywhere"
        )
    return net


def make_optimizers(recipe: Recipe, net: DiT) -> dict[str, torch.optim.Optimizer]:
    """The recipe's optimizers by name. With `muon`, the blocks' matrices go to Muon and the rest to AdamW."""
    train = recipe.train
    params = dict(net.named_parameters())
    optimizers: dict[str, torch.optim.Optimizer] = {}
    if train.optimizer == "muon":
        # adaLN matrices start at zero and act on one condition: orthogonalised updates do not suit them
        names = [n for n, p in params.items() if p.dim() == 2 and n.startswith("blocks.") and "adaLN" not in n]
        matrices = [params.pop(name) for name in names]
        optimizers["muon"] = torch.optim.Muon(
            matrices, lr=train.lr, weight_decay=train.weight_decay, adjust_lr_fn="match_rms_adamw"
        )
    optimizers["adamw"] = torch.optim.AdamW(
        params.values(), lr=train.lr, betas=train.betas, eps=train.eps, weight_decay=train.weight_decay, fused=True
    )
    return optimizers


def learning_rate(recipe: Recipe, step: int) -> float:
    """Learning rate of optimizer step number `step` (1 … steps): linear warm-up, then the schedule."""
    train = recipe.train
    warm = min(1.0, step / train.warmup) if train.warmup else 1.0
    done = (step - 1) / train.steps
    decay = {"constant": 1.0, "linear": 1 - done, "cosine": 0.5 * (1 + math.cos(math.pi * done))}[train.schedule]
    return train.lr * warm * decay


#: Sizes of the vocabularies a recipe can name without a file at hand.
VOCABULARIES = {"gpt2": 50257, "bert-base-uncased": 30522, "text8": 27, "byte": 257}


def expected_vocab_size(spec: str | None) -> int | None:
    """N of a tokenizer by its name alone; None where only the data can tell."""
    if spec and spec.startswith("bpe:") and spec[4:].isdigit():
        return int(spec[4:])
    return VOCABULARIES.get(spec or "")
