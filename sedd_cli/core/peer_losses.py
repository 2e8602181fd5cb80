"""Losses by which other projects evaluate their models, where they are not one of `core.bounds`.

Each gives unbiased estimates per sequence [B], nats, of the project's own integral, and of its training loss where that
is another one. x0 [B, L] are clean tokens, v [B] float64 in (0, 1) places the noise, and u [B, L] float64 the
corruption. cost [B, L] is the control variate of the count form, and counted [B, L] marks the positions that are no
padding; each may be None.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from sedd_cli.core.count_form import control_variate, count_draw
from sedd_cli.core.graphs.gidd import Gidd, Mixing, MixingSchedule, gidd_process
from sedd_cli.core.losses.score_entropy import score_entropy, sequence_score_entropy
from sedd_cli.core.schedules import T_MIN
from sedd_cli.core.score import ScoreModel


def udlm(model: ScoreModel, x0: Tensor, v: Tensor, u: Tensor, cost: Tensor | None) -> Tensor:
    """UDLM (Schiff et al. 2024), with its parameter `zero_recon_loss`: t ~ U(1e-3, 1).

    Its code corrupts with α = 1 − (1−ε)t and gives the network that noise, and weighs as if α were 1 − t.
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


#: The least share of uniform noise in GIDD's code, and the least coefficient B of its first version.
GIDD_LEAST = math.exp(-20)


def gidd(model: ScoreModel, x0: Tensor, v: Tensor, u: Tensor, counted: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """GIDD's "elbo" (von Rütte et al. 2025) and its training loss, at t ~ U(t_eps, 1 − t_eps): see `gidd_at`."""
    graph, schedule = _gidd_process(model)
    t = schedule.t_eps + (1 - 2 * schedule.t_eps) * v.double()
    return gidd_at(model, x0, graph.perturb(x0, schedule(t)[0], u), t, counted)


def gidd_at(
    model: ScoreModel, x0: Tensor, x: Tensor, t: Tensor, counted: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """GIDD's "elbo" over the counted positions and its training loss over all of them, for noisy x [B, L] at t [B].

    Both weigh D_KL(q_t(·|x0) ‖ q_t(·|x̂)) + r − log r − 1 of a position, where r = q_t(x|x0)/q_t(x|x̂) and x̂ is the
    network's distribution. The elbo's weight is the rate of noise into x over q_t(x|x0); its mean is the integral
    without the two ends, divided by 1 − 2·t_eps. The training loss has GIDD's dynamic weights, clipped to [0, 2]
    ([0, 1] in its first version, which leaves the −1 out), and is no likelihood.
    """
    graph, schedule = _gidd_process(model)
    sigma, rate = schedule(t.double())
    elbo, training = (torch.zeros(len(x0), dtype=torch.float64, device=x0.device) for _ in range(2))
    for rows in replace(model, graph=graph).rows(x, sigma):
        at, clean = rows.sigma, x0[rows.batch, rows.position]
        q = graph.transition(at, clean)
        p = graph.propagate(at, F.pad(rows.z[:, : graph.vocab_size].double().softmax(-1), (0, 1)))
        q_x, p_x = (value.gather(-1, rows.x[:, None])[:, 0] for value in (q, p))
        off = (torch.special.xlogy(q, q) - torch.special.xlogy(q, p)).sum(-1) + q_x / p_x - (q_x / p_x).log() - 1
        nats = rate[rows.batch] * graph.between(at, at).arrival(rows.x) / q_x * off
        elbo.index_add_(0, rows.batch, nats if counted is None else nats * counted[rows.batch, rows.position])
        dynamic = _dynamic_weights(graph.mixing, at, t[rows.batch], rows.x == clean, rows.x == graph.mask)
        training.index_add_(0, rows.batch, dynamic * (off + graph.mixing.first_version))
    return elbo, training


def _gidd_process(model: ScoreModel) -> tuple[Gidd, MixingSchedule]:
    """The process of a model of GIDD, which in its code is never of masks alone."""
    schedule = model.schedule
    assert isinstance(schedule, MixingSchedule), "a model of GIDD"
    return gidd_process(model.graph.vocab_size, _with_least(schedule.mixing), schedule.t_eps)


def _dynamic_weights(mixing: Mixing, sigma: Tensor, t: Tensor, clean: Tensor, masked: Tensor) -> Tensor:
    """GIDD's weights of its training loss at positions that are clean, masked, or neither; all [R]."""
    if mixing.first_version:
        scale, most = mixing.B / mixing.reached * torch.expm1(sigma).sqrt(), 1.0
    else:
        scale, most = mixing.B / (mixing.reached + 1) * (torch.sigmoid(-t) / 2).exp(), 2.0
    return torch.where(clean, scale, torch.where(masked, 2.0, 1.0)).clamp(max=most)


def _with_least(mixing: Mixing) -> Mixing:
    """Mixing with the least uniform noise of GIDD's code, which masks alone never are."""
    if mixing.first_version:  # its B, for one token, is clipped
        least = (mixing.reached + 1) * GIDD_LEAST
        least = least / (2 * (1 - GIDD_LEAST) + least)
    else:
        least = GIDD_LEAST
    return replace(mixing, p_uniform=max(mixing.p_uniform, least))


PeerLoss = Callable[[ScoreModel, Tensor, Tensor, Tensor, Tensor | None, Tensor | None], tuple[Tensor, ...]]
PEER_LOSSES: dict[str, PeerLoss] = {
    "udlm": lambda model, x0, v, u, cost, counted: (udlm(model, x0, v, u, cost),),
    "radd": lambda model, x0, v, u, cost, counted: (radd(model, x0, v, u, cost),),
    "gidd": lambda model, x0, v, u, cost, counted: gidd(model, x0, v, u, counted),
}
