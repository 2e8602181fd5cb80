"""What estimates of a likelihood say: per token, character and byte, with their errors."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from sedd_cli.evaluation.likelihood.protocols import Blocks

#: The chance with which a reported interval covers.
LEVEL = 0.95


@dataclass(frozen=True)
class Estimates:
    """nats [replicates, blocks], from `draws` network evaluations each."""

    nats: np.ndarray
    draws: int

    @property
    def mean_and_error(self) -> tuple[float, float]:
        """Nats of all blocks together, and the Monte-Carlo standard error."""
        totals = self.nats.sum(1)
        error = totals.std(ddof=1) / math.sqrt(len(totals)) if len(totals) > 1 else 0.0
        return float(totals.mean()), float(error)

    def within(self) -> float:
        """How many standard errors the interval at LEVEL reaches to either side: Student's t."""
        from scipy.special import stdtrit

        return float(stdtrit(len(self.nats) - 1, (1 + LEVEL) / 2))


def between_documents(nats: np.ndarray, lengths: np.ndarray, clusters: np.ndarray) -> float | None:
    """Standard error of the nats per token that comes from the choice of text alone; None for a single cluster,
    and where the error of the draws hides it.

    nats [replicates, blocks] are estimates for blocks of `lengths` tokens; blocks of one cluster count as one piece of
    text. Residuals of a ratio estimator, less the share of their square that the draws put there (none, where there
    is a single, exact, replicate).
    """
    _, place = np.unique(clusters, return_inverse=True)
    pieces = place.max() + 1
    if pieces < 2:
        return None
    nats = np.stack([np.bincount(place, weights=row) for row in nats])
    sizes = np.bincount(place, weights=lengths)
    mean = nats.mean(0)
    residuals = mean - mean.sum() / sizes.sum() * sizes
    from_draws = nats.var(0, ddof=1).sum() / len(nats) if len(nats) > 1 else 0.0
    square = pieces / (pieces - 1) * (residuals**2).sum() - from_draws
    return math.sqrt(square) / float(sizes.sum()) if square >= 0 else None


def summary(blocks: Blocks, found: Estimates, given: int = 0) -> dict[str, Any]:
    """The figures of some estimates, per token, character and byte. A single replicate is exact.

    given: tokens of each block that the nats are not for.
    """
    lengths = blocks.lengths - given
    used = int(lengths.sum())
    mean, error = found.mean_and_error
    rate, rate_error = mean / used, error / used
    reach = found.within() * rate_error if error else 0.0
    units = {"char": blocks.size.characters, "byte": blocks.size.bytes}
    between = between_documents(found.nats, lengths, blocks.clusters)
    result: dict[str, Any] = {}
    for unit, count in units.items():
        bits = 1 / math.log(2) / count
        result[f"bits_per_{unit}"] = mean * bits
        result[f"bits_per_{unit}_error"] = error * bits
    perplexity = math.exp(min(rate, 700.0))
    return result | {
        "between_documents_error": None if between is None else between * used / math.log(2) / units["char"],
        "nats_per_token": rate,
        "nats_per_token_error": rate_error,
        "nats_per_token_between_documents": between,
        "perplexity": perplexity,
        "perplexity_error": perplexity * rate_error,
        "perplexity_between_documents": None if between is None else perplexity * between,
        "perplexity_interval": [math.exp(min(rate + side * reach, 700.0)) for side in (-1, 1)],
        "interval_level": LEVEL,
        "tokens": used,
        "characters": units["char"],
        "bytes": units["byte"],
        "blocks": len(blocks),
        "replicates": len(found.nats),
        "nfe_per_block": len(found.nats) * found.draws,
        "rel_error": error / mean,
    }
