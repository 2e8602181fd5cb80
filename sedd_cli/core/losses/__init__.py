"""Training objectives. A new one is a file and a line here."""

from sedd_cli.core.losses import (  # noqa: F401  (registers them)
    autoregressive,
    concrete_score,
    d3pm,
    genmd4,
    implicit_score_entropy,
    masked_cross_entropy,
    score_entropy,
    weighting,
)
from sedd_cli.core.losses.base import OBJECTIVES, Objective

__all__ = ["OBJECTIVES", "Objective"]
