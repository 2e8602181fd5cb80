"""The optimizers of a recipe."""

from __future__ import annotations

import torch

from sedd_cli.models.dit import DiT
from sedd_cli.recipe import Recipe


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
