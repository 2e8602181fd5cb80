"""Diffusion-weighted denoising score entropy (theorem 3.6, algorithm 1)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from sedd_cli.core.fast.base import Kernels, Targets
from sedd_cli.core.fast.fused import LinearHead, losses, weighted_loss
from sedd_cli.core.graphs import Graph
from sedd_cli.core.losses.base import OBJECTIVES, ContinuousTime
from sedd_cli.core.rise import scaled_rise
from sedd_cli.core.score import Loss, ScoreModel


def score_entropy(graph: Graph, log_score: Tensor, sigma: Tensor, x: Tensor, x0: Tensor) -> Tensor:
    """Theorem 3.6 without σ̄′: nats per unit of sigma, [...].

        Σ_{y≠x} Q(x,y)·(s_y − r_y log s_y + K(r_y)),  r_y = p(y|x0)/p(x|x0),  K(a) = a(log a − 1).

    A term is r_y·φ(log s_y − log r_y) with φ(v) = e^v − 1 − v, and s_y where r_y = 0. In this form all terms are
    positive and finite; the textbook form cancels terms of size r·log r.

    Args:
        log_score: log s [..., S].
        sigma: total noise, per position [...] or per sequence [B].
        x, x0: noisy and clean tokens [...].
    """
    rate = graph.rate_into(x)  # Q(x, y)
    log_r = graph.log_ratio(sigma, x, x0)
    used, possible = rate > 0, log_r > -torch.inf
    # values that are not used are replaced first, or their NaN would enter the gradient
    log_r = torch.where(used & possible, log_r, 0.0).to(log_score.dtype)
    log_s = torch.where(used, log_score, 0.0)
    v = log_s - log_r
    r = log_r.exp()
    term = torch.where(possible, scaled_rise(r, v) - r * v, log_s.exp())
    return (rate.to(term.dtype) * term).sum(-1)


@OBJECTIVES.register
@dataclass(frozen=True)
class ScoreEntropy(ContinuousTime):
    """The paper's loss, which is its own likelihood bound: t ~ U(t_min, 1)."""

    name: ClassVar[str] = "score_entropy"

    def loss(self, model: ScoreModel, x0: Tensor, v: Tensor, u: Tensor) -> Loss:
        sigma, dsigma = self.noise_at(model, v)  # [B]
        x = model.graph.perturb(x0, sigma, u)  # [B, L]
        return weighted_score_entropy(model, x, sigma, x0, dsigma)


def sequence_score_entropy(model: ScoreModel, x: Tensor, sigma: Tensor, x0: Tensor) -> Tensor:
    """Score entropy of each sequence without σ̄′, [B]; the head runs at active positions only."""
    if (fused := _fused(model)) and not torch.is_grad_enabled():
        batch, hidden, targets = _targets(model, x, sigma, x0)
        loss = losses(*fused, hidden, targets)
        return loss.new_zeros(len(x)).index_add_(0, batch, loss)
    return model.row_losses(x, sigma, x0, lambda z, batch, x, x0: _row_entropy(model, z, sigma[batch], x, x0))


def weighted_score_entropy(model: ScoreModel, x: Tensor, sigma: Tensor, x0: Tensor, weight: Tensor) -> Loss:
    """weight [B] times the score entropy of each sequence, for training; fused where the head is linear."""
    if not (fused := _fused(model)):
        weighted = weight * sequence_score_entropy(model, x, sigma, x0)
        return Loss(weighted.sum(), weighted.detach())
    batch, hidden, targets = _targets(model, x, sigma, x0)
    total, loss = weighted_loss(*fused, hidden, targets, weight[batch])
    return Loss(total, weight.to(loss.dtype) * loss.new_zeros(len(x)).index_add_(0, batch, loss))


def _fused(model: ScoreModel) -> tuple[LinearHead, Kernels[Any]] | None:
    """What is needed to compute head and loss together, if the head is linear and its outputs are scores."""
    head = getattr(model.net, "readout", None)
    return None if head is None or model.mean or model.kernels is None else (head, model.kernels)


def _targets(model: ScoreModel, x: Tensor, sigma: Tensor, x0: Tensor) -> tuple[Tensor, Tensor, Targets]:
    """The active positions: their sequences [R], the trunk's outputs there [R, D], and what they should become."""
    hidden = model.hidden(x, sigma)
    batch, position = model.graph.active(x).nonzero(as_tuple=True)
    here = batch, position
    return batch, hidden[here], Targets(x[here], x0[here], sigma[batch].double())


def _row_entropy(model: ScoreModel, z: Tensor, sigma: Tensor, x: Tensor, x0: Tensor) -> Tensor:
    kernels = model.kernels
    if kernels is not None and not model.mean:
        return kernels.score_entropy_of(z, sigma, x, x0)
    log_score = model.log_score_of(z, sigma, x)
    if kernels is not None:
        return kernels.score_entropy(log_score, sigma, x, x0)
    return score_entropy(model.graph, log_score, sigma, x, x0)
