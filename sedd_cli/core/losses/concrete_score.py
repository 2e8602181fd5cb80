"""Concrete score matching (Meng et al. 2022), the paper's ablation (appendix D)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from sedd_cli.core.losses.base import OBJECTIVES, ContinuousTime
from sedd_cli.core.score import Loss, ScoreModel


@OBJECTIVES.register
@dataclass(frozen=True)
class ConcreteScore(ContinuousTime):
    """σ̄′·Σ_{y≠x} Q(x,y)·(s_y − r_y)²/2: the score entropy term replaced by a squared error, t ~ U(t_min, 1).

    Its minimum is the true score as well, but nothing keeps scores positive but their logarithm, and large ratios,
    at small noise, outweigh all others.
    """

    name: ClassVar[str] = "concrete_score"

    def loss(self, model: ScoreModel, x0: Tensor, v: Tensor, u: Tensor) -> Loss:
        graph = model.graph
        sigma, dsigma = self.noise_at(model, v)

        def error(z: Tensor, batch: Tensor, x: Tensor, x0: Tensor) -> Tensor:
            return graph.squared_error(graph.log_score(z, sigma[batch], x), sigma[batch], x, x0)

        found = model.row_losses(graph.perturb(x0, sigma, u), sigma, x0, error)
        loss = dsigma.to(found.dtype) * found
        return Loss(loss.sum(), loss.detach())
