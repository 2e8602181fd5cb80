"""Implicit score entropy (proposition 3.3), over all sequences of a small state space.

It needs the score at every neighbour of a sequence, so nothing trains with it. It is the ground truth of the denoising
form: with theorem 3.4 the two differ by a number that does not depend on the score.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sedd_cli.core.graphs import Graph


def implicit_score_entropy(graph: Graph, log_score: Tensor, sigma: Tensor, x: Tensor, p: Tensor) -> Tensor:
    """E_x Σ_{y≠x} [Q(x,y)·s(x)_y − Q(y,x)·log s(y)_x] without σ̄′, a scalar in nats per unit of sigma.

    y runs over the sequences that differ from x in one position. The first part is the expectation of the score's sum,
    the second that of the log-scores at the neighbours, which lead back to x.

    Args:
        graph: Of S states; its rates are those under the noise sigma.
        log_score: log s(x, sigma) [n, L, S] for every sequence.
        sigma: The total noise, a scalar.
        x: All n = S^L sequences [n, L], the last position fastest.
        p: Their probabilities under the noise [n], summing to 1.

    Raises:
        ValueError: x are not all sequences in order.
    """
    n, length = x.shape
    states = graph.states
    place = states ** torch.arange(length - 1, -1, -1, device=x.device)
    if n != states**length or not torch.equal((x * place).sum(-1), torch.arange(n, device=x.device)):
        raise ValueError(f"implicit score entropy needs all {states}^{length} sequences in order, found {n}")
    at_sigma = graph.between(sigma, sigma)
    into, out = at_sigma.rate_into(x), at_sigma.rate(x)  # Q(x, y) and Q(y, x), [n, L, S] each, over the states y
    score = torch.where(into > 0, log_score, -torch.inf).exp()
    # the neighbour with y at position i, and its log-score of the way back to x
    y = torch.arange(states, device=x.device)
    neighbour = torch.arange(n, device=x.device)[:, None, None] + (y - x[..., None]) * place[:, None]
    position = torch.arange(length, device=x.device)[:, None]
    back = log_score[neighbour, position, x[..., None]]
    used = (out > 0) & (y != x[..., None])
    terms = into * score - torch.where(used, out * torch.where(used, back, 0.0), 0.0)
    return (p * terms.sum((-1, -2))).sum()
