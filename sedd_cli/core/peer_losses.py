"""Losses by which other projects evaluate their models, where they are not one of `core.bounds`.

Each gives one unbiased estimate per sequence [B], nats, of the project's own integral. x0 [B, L] are clean tokens, v
[B] float64 in (0, 1) places the noise, u [B, L] float64 decides what is corrupted, and cost [B, L] is the control
variate of the count form, or None.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from sedd_cli.core.count_form import control_variate, count_draw
from sedd_cli.core.losses.score_entropy import score_entropy, sequence_score_entropy
from sedd_cli.core.schedules import T_MIN
from sedd_cli.core.score import ScoreModel


def udlm(model: ScoreModel, x0: Tensor, v: Tensor, u: Tensor, cost: Tensor | None) -> Tensor:
    """UDLM (Schiff et al. 2024), with its parameter `zero_recon_loss`: t ~ U(1e-3, 1).

    Its code corrupts with α = 1 − (1−ε)t and tells the network of that noise, and weighs as if α were 1 − t.
    """
    t = T_MIN + (1 - T_MIN) * v
    sigma = model.schedule(t)[0]
    weighed, rate = -torch.log1p(-t), 1 / (1 - t)
    x = model.graph.perturb(x0, sigma, u)

    def loss(z: Tensor, batch: Tensor, x: Tensor, x0: Tensor) -> Tensor:
        log_score = model.graph.plug_in_score(z, weighed[batch], x)
        return score_entropy(model.graph, log_score, weighed[batch], x, x0)

    return rate * model.row_losses(x, sigma, x0, loss).double()


def radd(model: ScoreModel, x0: Tensor, v: Tensor, u: Tensor, cost: Tensor | None) -> Tensor:
    """RADD's λ-DCE (Ou et al. 2025): ∫ over λ in (0, 1) of Σ over MASK of −log p(x0|x)/λ, by the number of masks.

    A network that does not depend on the noise makes it a bound on −log p of texts that are revealed in random order.
    """
    draw = count_draw(model, x0, v, u, 0.0, math.inf)
    found = draw.weight * sequence_score_entropy(model, draw.x, draw.sigma, x0).double()
    return found if cost is None else found - control_variate(model, draw, cost, 1.0)


PEER_LOSSES: dict[str, Callable[[ScoreModel, Tensor, Tensor, Tensor, Tensor | None], Tensor]] = {
    "udlm": udlm,
    "radd": radd,
}
