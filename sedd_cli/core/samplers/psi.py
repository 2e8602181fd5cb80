"""Steps by other posteriors than the reverse process's, with the same marginals: Ψ-samplers and DDIM.

Both draw the clean token from p(x0|x_t) of each position, which is the Tweedie step to no noise, and go on from there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from sedd_cli.core.graphs import Graph, Transition
from sedd_cli.core.graphs.transition import per_position
from sedd_cli.core.samplers.base import SAMPLERS
from sedd_cli.core.samplers.denoise import denoise_step
from sedd_cli.core.samplers.stepper import Stepper
from sedd_cli.core.samplers.tweedie import tweedie_step
from sedd_cli.core.score import ScoreModel


def masses(transition: Transition, x: Tensor) -> Tensor:
    """The probabilities of all states after a transition from x [R]: [R, S] float64."""
    weights = transition.weights.double()
    total = weights.sum(-1, keepdim=True)
    moves = transition.move_probability[:, None] * weights / torch.where(total > 0, total, 1.0)
    return moves.scatter(-1, x[:, None], 1 - transition.move_probability[:, None])


def clean_token(graph: Graph, log_score: Tensor, x: Tensor, sigma: Tensor) -> Tensor:
    """p(x0|x) at positions x [R] under noise sigma [R], over all states [R, S] float64."""
    return masses(denoise_step(graph, log_score, x, sigma), x)


@SAMPLERS.register
@dataclass(frozen=True)
class Psi(Stepper):
    """κ times the Tweedie step plus 1 − κ times x0 ~ p(x0|x_t), noised to s anew (Deschenaux et al. 2026).

    With exact scores a single token keeps its distribution at all times. κ = 1 is Tweedie. On the absorbing graph a
    token turns into MASK with probability (1 − κ)(1 − α_s), α = e^{−σ̄}.
    """

    name: ClassVar[str] = "psi"
    remasks: ClassVar[bool] = True
    kappa: float = 0.98

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.kappa <= 1:
            raise ValueError(f"kappa must lie in [0, 1], found {self.kappa}")

    def distribution_options(self) -> dict[str, Any]:
        return super().distribution_options() | {"kappa": self.kappa}

    def remask_probability(self, model: ScoreModel, t: Tensor, s: Tensor) -> Tensor:
        # where tokens do not only turn into MASK, no position is inactive and this is not read
        return (1 - self.kappa) * -torch.expm1(-model.schedule(s)[0])

    def transition(self, model: ScoreModel, log_score: Tensor, x: Tensor, t: Tensor, s: Tensor) -> Transition:
        (sigma_t, _), (sigma_s, _) = model.schedule(t), model.schedule(s)
        step = tweedie_step(model.graph.between(sigma_s, sigma_t), log_score, x, sigma_t - sigma_s)
        anew = model.graph.propagate(sigma_s, clean_token(model.graph, log_score, x, sigma_t))
        return Transition.of_masses(self.kappa * masses(step, x) + (1 - self.kappa) * anew, x)


@SAMPLERS.register
@dataclass(frozen=True)
class DDIM(Stepper):
    """Stay with probability (1 − α_s)/(1 − α_t), else x0 ~ p(x0|x_t) (Song, Meng, Ermon 2021, appendix A).

    The posterior with the least fresh noise that keeps a single token's distribution at all times, where noise
    replaces a token by a draw from p_base with probability 1 − α: on the absorbing graph, where this is Tweedie if
    scores are normalised, and on the uniform graph, where no token after the first is drawn from p_base.
    """

    name: ClassVar[str] = "ddim"

    def check(self, graph: Graph) -> None:
        super().check(graph)
        if graph.only_masks:
            graph.check_masking(self.name)
        one = torch.ones(1, dtype=torch.float64)
        kept = torch.zeros(graph.states, dtype=torch.float64)
        kept[0] = torch.exp(-one)
        replaced = kept - torch.expm1(-one) * graph.base()
        if not torch.allclose(graph.transition(one, torch.zeros(1, dtype=torch.int64))[0], replaced, atol=1e-9):
            raise ValueError(
                f"{self.name} needs a graph whose noise replaces tokens by draws from p_base, {graph.name} has another"
            )

    def transition(self, model: ScoreModel, log_score: Tensor, x: Tensor, t: Tensor, s: Tensor) -> Transition:
        (sigma_t, _), (sigma_s, _) = model.schedule(t), model.schedule(s)
        stays = per_position(torch.expm1(-sigma_s) / torch.expm1(-sigma_t), x)[:, None]
        p0 = (1 - stays) * clean_token(model.graph, log_score, x, sigma_t)
        return Transition.of_masses(p0.scatter_add(-1, x[:, None], stays.expand(len(x), 1).to(p0.dtype)), x)
