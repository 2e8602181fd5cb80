"""Autoregressive training: the exact likelihood of a causal network with the same trunk."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from sedd_cli.core.losses.base import OBJECTIVES, Objective, sequence_cross_entropy, weighted_cross_entropy
from sedd_cli.core.score import Loss, ScoreModel


@OBJECTIVES.register
@dataclass(frozen=True)
class Autoregressive(Objective):
    """−log p(x0) = Σ_i −log p(x0_i | x0_1 … x0_{i−1}).

    The trunk attends to earlier positions only, without time conditioning (sigma is 0). It reads the text shifted by
    one, with MASK in front; its outputs are logits of the token at each position.
    """

    name: ClassVar[str] = "autoregressive"
    logs_bound: ClassVar[bool] = True
    causal: ClassVar[bool] = True
    needs_mask: ClassVar[bool] = True

    def loss(self, model: ScoreModel, x0: Tensor, v: Tensor, u: Tensor) -> Loss:
        weight = torch.ones(len(x0), dtype=torch.float32, device=x0.device)
        return weighted_cross_entropy(model, shifted(model, x0), torch.zeros_like(weight), x0, weight, everywhere(x0))


def shifted(model: ScoreModel, x0: Tensor) -> Tensor:
    """What the network reads: x0 [B, L] behind a MASK, without its last token."""
    return torch.cat([torch.full_like(x0[:, :1], model.graph.mask_state), x0[:, :-1]], 1)


def next_token_nats(model: ScoreModel, x0: Tensor, given: int = 0) -> Tensor:
    """−log p of every sequence of x0 [B, L] behind its first `given` tokens, nats [B]."""
    where = everywhere(x0)
    where[:, :given] = False
    sigma = x0.new_zeros(len(x0), dtype=torch.float32)
    return sequence_cross_entropy(model, shifted(model, x0), sigma, x0, where)


def everywhere(x0: Tensor) -> Tensor:
    """Every position of x0 [B, L]."""
    return torch.ones_like(x0, dtype=torch.bool)
