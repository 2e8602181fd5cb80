"""Draws of the likelihood bounds that place the number of masks instead of the time (where tokens turn into MASK)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from sedd_cli.core.score import ScoreModel

#: Numbers of masks k are drawn ∝ k to the minus this: measured best between 0 and 0.7 on a trained model.
COUNT_POWER = 1 / 3


@dataclass(frozen=True)
class CountDraw:
    """Sequences x [B, L] under noise sigma [B]; weight [B] · Σ score entropy estimates an integral over sigma."""

    x: Tensor
    sigma: Tensor
    weight: Tensor


def count_draw(
    model: ScoreModel, x0: Tensor, v: Tensor, u: Tensor, low: float, high: float, full: float = 1.0,
    reweighted: bool = False,
) -> CountDraw:  # fmt: skip
    """The count form on graphs where tokens only turn into MASK: k masks at the k smallest uniforms u [B, L].

    λ is the k-th smallest of them. That order statistic is Beta(k, L−k+1) and independent of which positions are
    masked, so L·E_k E_λ E_{|S|=k} (1/k) Σ_{i∈S} (CE_i + e^{m_i} − 1 − m_i), k uniform, is the integral over all noise,
    also for networks that see sigma. Over a part of it, from low to high, draws outside count nothing. v [B] draws k
    ∝ k^{−1/3}, which the weight undoes: a mean over few masks scatters more.

    full: positions are masked with probability λ/full instead of λ, so λ is full times the order statistic. reweighted:
    λ is the order statistic itself, and the weight is times the ratio of the two densities of (λ, k), which is at most
    full^{−L}: then x and sigma are those of a draw with full = 1.
    """
    if not model.graph.masking:
        raise ValueError(f"the graph {model.graph.name!r} has no count form: its tokens do not only turn into MASK")
    length = x0.shape[-1]
    share = torch.arange(1, length + 1, device=x0.device, dtype=torch.float64) ** -COUNT_POWER
    share /= share.sum()
    k = torch.searchsorted(share.cumsum(0), v).clamp(max=length - 1)
    lam = u.sort(-1).values.gather(-1, k[:, None])
    sigma = -torch.log1p(-lam[:, 0] * (1.0 if reweighted else full))
    weight = torch.expm1(sigma) / ((k + 1) * share[k])
    inside = (sigma >= low) & (sigma <= high)
    if reweighted:
        kept = torch.log1p(-(lam[:, 0] / full).clamp(max=1 - 1e-16)) + sigma
        weight = weight * torch.exp((length - 1 - k) * kept - (k + 1).double() * math.log(full))
    return CountDraw(torch.where(u <= lam, model.graph.mask_state, x0), sigma, torch.where(inside, weight, 0.0))


def control_variate(model: ScoreModel, draw: CountDraw, cost: Tensor, mass: float) -> Tensor:
    """A number [B] with expectation 0 that varies as weight·Σ score entropy does if a token's loss is near its cost.

    mass: the range of the probability of being masked, which is what the draws integrate over.
    """
    # weight/E·Σ over masks, like the loss, has the expectation ∫ (1/λ)·λ·Σ dλ: the whole sum times the range of λ
    masked = (cost * model.graph.active(draw.x)).sum(-1)
    return draw.weight / torch.expm1(draw.sigma) * masked - mass * cost.sum(-1)
