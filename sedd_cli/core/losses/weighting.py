"""Weights of the loss over noise levels and positions, relative to those of the likelihood bound.

With any other than `bound`, training no longer minimises the bound itself. At every noise level the minimum stays where
it is, at the true score; what changes is how much each level counts for a network that cannot reach it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sedd_cli.core.graphs import Graph

#: The names of weightings: that of theorem 3.6, and the others.
BOUND, FLAT, MIN_SNR, DYNAMIC = "bound", "flat", "min_snr", "dynamic"
NAMES = (BOUND, FLAT, MIN_SNR, DYNAMIC)


def level_factor(name: str, sigma: Tensor, dsigma: Tensor, cap: float) -> Tensor:
    """What `flat` and `min_snr` multiply the bound's loss with at noise sigma, [B].

    The bound weighs the cross-entropy of a noised token by w = σ̄′/expm1(σ̄), the signal-to-noise ratio 1/expm1(σ̄) per
    unit of noise (exactly so with MASK). flat: by 1 instead. min_snr: by min(w, cap), as Hang et al. 2023 clip it.
    """
    w = dsigma / torch.expm1(sigma)
    return 1 / w if name == FLAT else (cap / w).clamp(max=1.0)


def dynamic_factor(graph: Graph, sigma: Tensor, dsigma: Tensor, x: Tensor, x0: Tensor) -> Tensor:
    """What `dynamic` multiplies the bound's loss with at each position, [B, L] (von Rütte et al. 2025, "GIDD").

    The bound weighs a position by σ̄′·Q(x,y)/p(x|x0), which is very large where noise is small. GIDD's dynamic weights
    take its place: 2 at MASK, 1 at a wrong token, and e^{−λ/2}/N, at most 2, at the clean token, with the log
    signal-to-noise ratio λ = log(α/(1 − α)) and α the probability that no noise has reached a token. GIDD's B and w_max
    are 1 here. λ is that of its first code, which clipped all weights at 1; the present one clips at 2, and has
    sigmoid(−t), which hardly changes, in place of −λ.
    """
    tokens, device = graph.vocab_size, x.device
    # rates into a state and probabilities are those of one token for all (`check_dynamic`)
    p = graph.transition(sigma.double(), torch.zeros_like(sigma, dtype=torch.int64))  # [B, S] from the token 0
    rates = graph.rate_into(torch.tensor([0, graph.states - 1], device=device))
    into_token, into_last = rates[0, 1], rates[1, 0]
    stayed = p[:, 0]
    alpha = (stayed - p[:, 1]).clamp(min=1e-300)
    own = (((1 - alpha) / alpha).sqrt() / tokens).clamp(max=2.0)
    masked = (x == graph.mask) if graph.mask is not None else torch.zeros_like(x, dtype=torch.bool)
    same = x == x0

    def by_kind(at_mask: Tensor, at_same: Tensor, elsewhere: Tensor) -> Tensor:
        return torch.where(masked, at_mask[:, None], torch.where(same, at_same[:, None], elsewhere[:, None]))

    one = torch.ones_like(own)
    wanted = by_kind(2 * one, own, one)
    probability = by_kind(p[:, -1], stayed, p[:, 1])
    rate = by_kind(into_last * one, into_token * one, into_token * one)
    used = (rate > 0) & (probability > 0)
    return torch.where(used, wanted * probability / torch.where(used, rate * dsigma[:, None], 1.0), 0.0)


def check_dynamic(graph: Graph) -> None:
    """ValueError unless the rates into a state are the same from all other tokens, and the same for all tokens."""
    if graph.only_masks:
        graph.check_masking("weighting=dynamic")
    few = min(graph.vocab_size, 3)
    states = torch.tensor([*range(few), graph.states - 1])
    rates = graph.rate_into(states)[:, : graph.vocab_size]
    tokens = torch.arange(graph.vocab_size)
    level = rates[0, 1]
    for state, row in zip(states.tolist(), rates, strict=True):
        others = row[tokens != state]
        same = level if state < graph.vocab_size else others[0]
        if not torch.allclose(others, same.expand_as(others)):
            raise ValueError(f"weighting=dynamic needs equal rates between all tokens, those of {graph.name} differ")
