"""The optimizers of a recipe."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch

from sedd_cli.models.dit import DiT
from sedd_cli.recipe import Recipe


def make_optimizers(recipe: Recipe, net: DiT) -> dict[str, torch.optim.Optimizer]:
    """The recipe's optimizers by name. With `muon`, the blocks' matrices go to Muon and the rest to AdamW.

    A group's `factor` is its learning rate relative to train.lr.
    """
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
    groups: list[dict[str, Any]] = []
    for part, rate in (("output_layer.linear.", train.head_lr), ("vocab_embed.", train.embedding_lr)):
        if rate is not None:
            own = [params.pop(name) for name in list(params) if name.startswith(part)]
            groups.append({"params": own, "factor": rate / train.lr})
    if (exponents := params.pop("exponents", None)) is not None:
        groups.append({"params": [exponents], "weight_decay": 0.0})
    groups.append({"params": list(params.values())})
    optimizers["adamw"] = torch.optim.AdamW(
        groups, lr=train.lr, betas=train.betas, eps=train.eps, weight_decay=train.weight_decay, fused=True
    )
    return optimizers


def set_learning_rate(optimizers: Iterable[torch.optim.Optimizer], rate: float) -> None:
    """Set the rate of every group, times its factor."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = rate * group.get("factor", 1.0)
