"""Noise schedules. A new one is a file and a line here."""

from sedd_cli.core.noises import geometric, loglinear  # noqa: F401  (registers them)
from sedd_cli.core.noises.base import NOISES, Noise

__all__ = ["NOISES", "Noise"]
