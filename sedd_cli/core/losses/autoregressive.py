"""Autoregressive training: the exact likelihood of a causal network with the same trunk."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from sedd_cli.core.losses.base import OBJECTIVES, Objective, token_nats
from sedd_cli.core.score import Loss, ScoreModel


@OBJECTIVES.register
@dataclass(frozen=True)
class Autoregressive(Objective):
    """−log p(x0) = Σ_i −log p(x0_i | x0_1 … x0_{i−1}).

    The trunk attends to earlier positions only, without time conditioning (sigma is 0). It reads the text shifted by
    one, with MASK in front; its outputs are logits of the token at each position.
    """

    name: ClassVar[str] = "autoregressive"
    causal: ClassVar[bool] = True
    needs_mask: ClassVar[bool] = True

    def loss(self, model: ScoreModel, x0: Tensor, v: Tensor, u: Tensor) -> Loss:
        loss = next_token_nats(model, x0)
        return Loss(loss.sum(), loss.detach())


def shifted(model: ScoreModel, x0: Tensor) -> Tensor:
    """What the network reads: x0 [B, L] behind a MASK, without its last token."""
    return torch.cat([torch.full_like(x0[:, :1], model.graph.mask_state), x0[:, :-1]], 1)


def next_token_nats(model: ScoreModel, x0: Tensor, given: int = 0) -> Tensor:
    """−log p of every sequence of x0 [B, L] behind its first `given` tokens, nats [B]."""
    vocab_size = model.graph.vocab_size

    def surprisal(z: Tensor, batch: Tensor, x: Tensor, x0: Tensor) -> Tensor:
        return token_nats(z, x0, vocab_size)

    where = torch.ones_like(x0, dtype=torch.bool)
    where[:, :given] = False
    return model.row_losses(shifted(model, x0), x0.new_zeros(len(x0), dtype=torch.float32), x0, surprisal, where)
