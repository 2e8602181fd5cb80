"""Samplers. A new one is a file and a line here."""

from sedd_cli.core.samplers import euler, first_hitting, tweedie  # noqa: F401  (registers them)
from sedd_cli.core.samplers.base import SAMPLERS, Denoised, Sampler, linear_grid, run_plain

__all__ = ["SAMPLERS", "Denoised", "Sampler", "linear_grid", "run_plain"]
