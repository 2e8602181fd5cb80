"""From Monte-Carlo estimates of a text's nats to rates per token, character and byte, with their errors."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch

from sedd_cli.core.protocols import PROTOCOLS, sign
from sedd_cli.evaluation.likelihood.protocols import Blocks
from sedd_cli.evaluation.likelihood.results import BoundResult, Documents, MonteCarlo, TrainingLoss

#: The probability with which a reported interval covers the truth.
LEVEL = 0.95
#: Of texts with more documents, their nats are not kept.
MOST_DOCUMENTS = 20_000


@dataclass(frozen=True)
class Estimates:
    """nats [replicates, blocks], each from `draws` network evaluations."""

    nats: np.ndarray
    draws: int

    @property
    def mean_and_error(self) -> tuple[float, float]:
        """Nats of all blocks together, and the Monte-Carlo standard error."""
        totals = self.nats.sum(1)
        error = totals.std(ddof=1) / math.sqrt(len(totals)) if len(totals) > 1 else 0.0
        return float(totals.mean()), float(error)

    def quantile(self) -> float:
        """Half the width of the interval at LEVEL in standard errors: Student's t."""
        from scipy.special import stdtrit

        return float(stdtrit(len(self.nats) - 1, (1 + LEVEL) / 2))


def between_documents(nats: np.ndarray, lengths: np.ndarray, clusters: np.ndarray) -> float | None:
    """Standard error of the nats per token, or per character, that comes from the choice of text.

    It is that of a ratio estimator over clusters, less the part of its square that the draws contribute (none, where
    there is a single, exact, replicate).

    Args:
        nats: estimates [replicates, blocks] for blocks of `lengths` tokens, or characters.
        clusters: the cluster of each block; blocks of one cluster count as one piece of text.

    Returns:
        None for a single cluster, and where the error of the draws is larger.
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


def by_document(nats: np.ndarray, lengths: np.ndarray, clusters: np.ndarray) -> Documents | None:
    """Nats, averaged over the replicates, and tokens of each cluster; None where there are too many."""
    _, place = np.unique(clusters, return_inverse=True)
    if place.max() + 1 > MOST_DOCUMENTS:
        return None
    totals, sizes = np.bincount(place, weights=nats.mean(0)), np.bincount(place, weights=lengths)
    return Documents(totals.tolist(), sizes.astype(int).tolist())


def training_loss(found: Estimates, blocks: Blocks, name: str) -> TrainingLoss:
    """The mean of a project's training loss over all positions of its blocks, padding among them."""
    mean, error = found.mean_and_error
    positions = sum(blocks.read(group).numel() for group in blocks.groups(1 << 16))
    return TrainingLoss(name, mean / positions, error / positions)


def summary(
    blocks: Blocks, found: Estimates, protocol: str, given: int = 0, monte_carlo: MonteCarlo | None = None, of: str = ""
) -> BoundResult:
    """The result of some estimates under a protocol. Without `monte_carlo` they are exact.

    given: tokens of each block that were not predicted. of: the process, where the protocol does not say it whole.
    """
    lengths = blocks.lengths - given
    used = int(lengths.sum())
    mean, error = found.mean_and_error
    rate, rate_error = mean / used, error / used
    reach = found.quantile() * rate_error if error else 0.0
    characters, n_bytes = blocks.size.characters, blocks.size.bytes
    shares = blocks.shares(torch.arange(len(blocks))).numpy()  # tokens and characters count as their nats do
    between = between_documents(found.nats, lengths * shares, blocks.clusters)
    by_character = between_documents(found.nats, blocks.characters * shares, blocks.clusters)
    decoded = int(blocks.characters.sum())
    perplexity = math.exp(min(rate, 700.0))
    per_char, per_byte = 1 / math.log(2) / characters, 1 / math.log(2) / n_bytes
    return BoundResult(
        bits_per_char=mean * per_char,
        bits_per_char_error=error * per_char,
        bits_per_byte=mean * per_byte,
        bits_per_byte_error=error * per_byte,
        between_documents_error=None if by_character is None else by_character * decoded / math.log(2) / characters,
        nats_per_token=rate,
        nats_per_token_error=rate_error,
        nats_per_token_between_documents=between,
        perplexity=perplexity,
        perplexity_error=perplexity * rate_error,
        perplexity_between_documents=None if between is None else perplexity * between,
        perplexity_interval=[math.exp(min(rate + side * reach, 700.0)) for side in (-1, 1)],
        interval_level=LEVEL,
        tokens=used,
        characters=characters,
        bytes=n_bytes,
        blocks=len(blocks),
        replicates=len(found.nats),
        nfe_per_block=len(found.nats) * found.draws,
        rel_error=error / mean,
        monte_carlo=monte_carlo,
        sign=sign(protocol, exact=monte_carlo is None),
        documents=by_document(found.nats, lengths, blocks.clusters),
        process=of or PROTOCOLS[protocol].process if monte_carlo else "the model",
    )
