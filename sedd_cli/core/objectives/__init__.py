"""Training objectives. A new one is a file and a line here."""

from sedd_cli.core.objectives import score_entropy  # noqa: F401  (registers it)
from sedd_cli.core.objectives.base import OBJECTIVES, Objective

__all__ = ["OBJECTIVES", "Objective"]
