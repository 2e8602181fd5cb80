"""Samplers. A new one is a file and a line here."""

from sedd_cli.core.samplers import (  # noqa: F401  (registers them)
    confidence,
    euler,
    first_hitting,
    flow_matching,
    gibbs,
    left_to_right,
    parallel,
    psi,
    remdm,
    tweedie,
)
from sedd_cli.core.samplers.base import SAMPLERS, Denoised, Sampler
from sedd_cli.core.samplers.draws import DRAWS
from sedd_cli.core.samplers.grids import GRIDS
from sedd_cli.core.samplers.stepper import Stepper, run_reference

__all__ = ["DRAWS", "GRIDS", "SAMPLERS", "Denoised", "Sampler", "Stepper", "run_reference"]
