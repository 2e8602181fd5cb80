"""Samplers. A new one is a file and a line here."""

from sedd_cli.core.samplers import euler, tweedie  # noqa: F401  (registers them)
from sedd_cli.core.samplers.base import SAMPLERS, Sampler, linear_grid, sample

__all__ = ["SAMPLERS", "Sampler", "linear_grid", "sample"]
