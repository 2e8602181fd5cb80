"""The optimizers of a recipe."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from sedd_cli.models.dit import DiT
from sedd_cli.models.precision import native_bf16
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
        # PyTorch's iterates in bf16, whatever the precision of the training
        kind = torch.optim.Muon if native_bf16(matrices[0].device) else Float32Muon
        optimizers["muon"] = kind(
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


class Float32Muon(torch.optim.Muon):
    """`torch.optim.Muon`, adjusted to the size of AdamW's steps, with its Newton–Schulz iteration in float32.

    torch's runs in bf16, which takes several times as long as float32 where a processor has no units for it. The
    options, the state and the steps are the same, up to rounding; adjust_lr_fn has to be match_rms_adamw.
    """

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            lr, momentum = group["lr"], group["momentum"]
            assert group["adjust_lr_fn"] == "match_rms_adamw"
            for p in group["params"]:
                if p.grad is None:
                    continue
                state = self.state[p]
                if "momentum_buffer" not in state:
                    state["momentum_buffer"] = torch.zeros_like(p.grad)
                mean = state["momentum_buffer"].lerp_(p.grad, 1 - momentum)
                towards = p.grad.lerp(mean, momentum) if group["nesterov"] else mean
                towards = orthogonalized(towards, group["ns_coefficients"], group["ns_steps"], group["eps"])
                p.mul_(1 - lr * group["weight_decay"]).add_(towards, alpha=-0.2 * lr * math.sqrt(max(p.shape)))
        return loss


def orthogonalized(x: Tensor, coefficients: tuple[float, float, float], steps: int, eps: float) -> Tensor:
    """x [A, B] with its singular values near 1: X ← a·X + (b·XXᵀ + c·(XXᵀ)²)·X, `steps` times, from X = x/‖x‖."""
    a, b, c = coefficients
    tall = x.shape[0] > x.shape[1]
    X = x.float().T if tall else x.float()
    X = X / X.norm().clamp(min=eps)
    for _ in range(steps):
        gram = X @ X.T
        X = torch.addmm(X, torch.addmm(gram, gram, gram, beta=b, alpha=c), X, beta=a)
    return X.T if tall else X
