"""Denoising score entropy (theorem 3.4) with the weight of theorem 3.6 (likelihood bound); algorithm 1 trains with it.

`score_entropy` is the formula for any graph. On the absorbing and uniform graphs, training and bounds run the closed
forms of `core.fast` instead.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from sedd_cli.core.fast.base import ScoreEntropyTiles, Targets
from sedd_cli.core.fast.fused import losses
from sedd_cli.core.fast.tiles import LinearHead
from sedd_cli.core.graphs import Graph
from sedd_cli.core.losses.base import (
    OBJECTIVES,
    ContinuousTime,
    Weight,
    factor_of,
    fused_loss,
    linear_head,
)
from sedd_cli.core.score import Loss, Parametrization, ScoreModel


def score_entropy(graph: Graph, log_score: Tensor, sigma: Tensor, x: Tensor, x0: Tensor) -> Tensor:
    """The integrand of theorem 3.6 without σ̄′, for any graph: nats per unit of sigma, [...].

        Σ_{y≠x} Q(x,y)·(s_y − r_y log s_y + K(r_y)),  r_y = p(y|x0)/p(x|x0),  K(a) = a(log a − 1).

    A term is r_y·φ(v) with φ(v) = e^v − 1 − v, v = log s_y − log r_y, and s_y where r_y = 0. In this form all terms are
    positive; the textbook form cancels terms of size r·log r. Beyond v = 1, where nothing cancels, e^v may overflow
    while r_y underflows: the term is s_y − r_y·(1 + v) there. Q(x,y)·s_y is formed as Q·√s·√s, for s_y may overflow
    where Q·s_y does not.

    Args:
        log_score: log s [..., S].
        sigma: total noise, per position [...] or per sequence [B].
        x, x0: noisy and clean tokens [...].
    """
    rate = graph.between(sigma, sigma).rate_into(x)  # Q(x, y)
    log_r = graph.log_ratio(sigma, x, x0)
    used, possible = rate > 0, log_r > -torch.inf
    # values that are not used are replaced first, or their NaN would enter the gradient
    log_r = torch.where(used & possible, log_r, 0.0).to(log_score.dtype)
    log_s = torch.where(used, log_score, 0.0)
    v = log_s - log_r
    rate = rate.to(v.dtype)
    r = rate * log_r.exp()
    near = possible & (v <= 1)
    near_v = torch.where(near, v, 0.0)
    root = (torch.where(near, 0.0, log_s) / 2).exp()
    far = rate * root * root - torch.where(possible, r * (1 + v), 0.0)
    return torch.where(near, r * (torch.expm1(near_v) - near_v), far).sum(-1)


@OBJECTIVES.register
@dataclass(frozen=True)
class ScoreEntropy(ContinuousTime):
    """The paper's loss: σ̄′(t)·score entropy at t ~ U(t_min, 1).

    Its mean is the integral of theorem 3.6 from t_min to 1, without the end terms of a likelihood bound: an estimate.
    """

    name: ClassVar[str] = "score_entropy"
    logs_bound: ClassVar[bool] = True

    def weighted(self, model: ScoreModel, x: Tensor, sigma: Tensor, x0: Tensor, weight: Weight) -> Loss:
        return weighted_score_entropy(model, x, sigma, x0, weight)


@dataclass(frozen=True)
class PlugInScoreEntropy(ScoreEntropy):
    """Score entropy of a network whose outputs take the place of the clean token (`Graph.plug_in_score`).

    The objective of UDLM (Schiff et al. 2024), Duo (Sahoo et al. 2025) and GIDD (von Rütte et al. 2025). No recipe
    chooses it: it describes their checkpoints.
    """

    name: ClassVar[str] = "plug_in_score_entropy"
    parametrization: ClassVar[Parametrization] = "plug_in"


def sequence_score_entropy(
    model: ScoreModel, x: Tensor, sigma: Tensor, x0: Tensor, factor: Tensor | None = None
) -> Tensor:
    """Score entropy of each sequence without σ̄′, [B]; the head runs at active positions only.

    factor [B, L]: of the gradients (`ScoreModel.row_losses`).
    """
    if (readout := _linear_head(model)) and not torch.is_grad_enabled():
        (batch, _), hidden, loss = _tiles(model, x, sigma, x0)
        found = losses(readout, loss, hidden)
        return found.new_zeros(len(x)).index_add_(0, batch, found)

    def entropy(z: Tensor, batch: Tensor, x: Tensor, x0: Tensor) -> Tensor:
        return _row_entropy(model, z, sigma[batch], x, x0)

    return model.row_losses(x, sigma, x0, entropy, factor=factor)


def weighted_score_entropy(model: ScoreModel, x: Tensor, sigma: Tensor, x0: Tensor, weight: Weight) -> Loss:
    """weight times the score entropy of each sequence, for training; fused where the head is linear."""
    if not (readout := _linear_head(model)):
        found = sequence_score_entropy(model, x, sigma, x0, factor_of(weight))
        weighted = (weight if isinstance(weight, Tensor) else weight.logged) * found
        return Loss(weighted.sum(), weighted.detach())
    place, hidden, loss = _tiles(model, x, sigma, x0)
    return fused_loss(readout, loss, hidden, place, weight)


def _linear_head(model: ScoreModel) -> LinearHead | None:
    """The head, if it is linear, its outputs are scores, and the graph has a fused loss."""
    return None if model.parametrization != "score" or model.kernels is None else linear_head(model)


def _tiles(
    model: ScoreModel, x: Tensor, sigma: Tensor, x0: Tensor
) -> tuple[tuple[Tensor, Tensor], Tensor, ScoreEntropyTiles]:
    """The active positions: their sequences and places in them [R], the outputs there [R, D], and their loss."""
    kernels = model.kernels
    assert kernels is not None
    batch, position, hidden = model.hidden_rows(x, sigma)
    targets = Targets(x[batch, position], x0[batch, position], sigma[batch].double())
    return (batch, position), hidden, ScoreEntropyTiles(kernels, targets)


def _row_entropy(model: ScoreModel, z: Tensor, sigma: Tensor, x: Tensor, x0: Tensor) -> Tensor:
    kernels = model.kernels
    if kernels is not None and model.parametrization == "score":
        return kernels.score_entropy_of(z, sigma, x, x0)
    log_score = model.log_score_of(z, sigma, x)
    if kernels is not None:
        return kernels.score_entropy(log_score, sigma, x, x0)
    return score_entropy(model.graph, log_score, sigma, x, x0)
