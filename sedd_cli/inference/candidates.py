"""What candidates for the same gaps are ranked by: the model's own bound."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from sedd_cli.core.random import BOUND, TIME, Stream
from sedd_cli.errors import out_of_memory
from sedd_cli.evaluation.likelihood.estimator import LEAST_REPLICATES, Drawing, draw_bounds
from sedd_cli.inference.denoise import tokens_at_once
from sedd_cli.inference.model import Model

#: Draws of the bound on a candidate.
BOUND_DRAWS = 64


def candidate_bound(model: Model, tokens: list[int]) -> tuple[float, float]:
    """The rigorous bound on −log p of a sequence in nats per token, and its standard error (exact from left to right).

    It is that of the model as it stands, whatever levers drew the candidate. Every candidate sees the same draws, from
    a seed of their own, so that neighbours in a batch, or their order, count for nothing.
    """
    if model.exact:
        nats = model.nats(torch.tensor([tokens], device=model.device))
        return float(nats) / len(tokens), 0.0
    size = max(1, tokens_at_once(model.device) // len(tokens))
    while True:
        try:
            nats = _draws(model, tokens, size)
            break
        except (RuntimeError, MemoryError) as error:
            if size == 1 or not out_of_memory(error):
                raise
        size = max(1, min(size, BOUND_DRAWS) // 2)
    means = nats.view(LEAST_REPLICATES, -1).mean(1) / len(tokens)
    return float(means.mean()), float(means.std() / math.sqrt(LEAST_REPLICATES))


@torch.no_grad()
def _draws(model: Model, tokens: list[int], size: int) -> Tensor:
    """Draws of the bound, float64 [BOUND_DRAWS], in sets of strata one after another; `size` of them at once."""
    index, estimator = torch.arange(BOUND_DRAWS), Drawing().placed_for(model.graph)
    strata = BOUND_DRAWS // LEAST_REPLICATES
    v = (index % strata + Stream(0, TIME, index).uniform(0)) / strata
    found = []
    for at, part in zip(index.split(size), v.split(size), strict=True):
        x0 = torch.tensor(tokens, device=model.device).expand(len(at), -1)
        found.append(draw_bounds(model.score, ("rigorous",), estimator, x0, part, Stream(0, BOUND, at), 0)[:, 0].cpu())
    return torch.cat(found).double()
