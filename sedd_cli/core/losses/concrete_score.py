"""Concrete score matching (Meng et al. 2022), the paper's ablation (appendix D)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from sedd_cli.core.fast.base import ConcreteScoreTiles, Targets
from sedd_cli.core.graphs import Graph
from sedd_cli.core.losses.base import (
    OBJECTIVES,
    ContinuousTime,
    Weight,
    factor_of,
    fused_loss,
    linear_head,
    summed,
)
from sedd_cli.core.score import Loss, ScoreModel


def concrete_score_error(graph: Graph, log_score: Tensor, sigma: Tensor, x: Tensor, x0: Tensor) -> Tensor:
    """Σ_{y≠x} Q(x,y)·(s_y − r_y)²/2 without σ̄′, r_y = p(y|x0)/p(x|x0): [...]. Arguments as in `score_entropy`."""
    rate = graph.between(sigma, sigma).rate_into(x).to(log_score.dtype)  # Q(x, y)
    r = graph.log_ratio(sigma, x, x0).exp().to(log_score.dtype)
    error = torch.where(rate > 0, rate.sqrt() * (log_score.exp() - r), 0.0)
    return error.square().sum(-1) / 2


@OBJECTIVES.register
@dataclass(frozen=True)
class ConcreteScore(ContinuousTime):
    """The score entropy term replaced by a squared error, t ~ U(t_min, 1).

    Its minimum is the true score as well. Large ratios, at small noise, outweigh all others.
    """

    name: ClassVar[str] = "concrete_score"

    def weighted(self, model: ScoreModel, x: Tensor, sigma: Tensor, x0: Tensor, weight: Weight) -> Loss:
        if (kernels := model.kernels) and (readout := linear_head(model)):
            batch, position, hidden = model.hidden_rows(x, sigma)
            targets = Targets(x[batch, position], x0[batch, position], sigma[batch].double())
            return fused_loss(readout, ConcreteScoreTiles(kernels, targets), hidden, (batch, position), weight)

        def error(z: Tensor, batch: Tensor, x: Tensor, x0: Tensor) -> Tensor:
            log_score = model.graph.log_score(z, sigma[batch], x)
            return concrete_score_error(model.graph, log_score, sigma[batch], x, x0)

        return summed(model.row_losses(x, sigma, x0, error, factor=factor_of(weight)), weight)
