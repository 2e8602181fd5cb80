"""A file of parts as a user writes it: a schedule and a sampler."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from sedd_cli.recipe import outside

PARTS = """
from dataclasses import dataclass
from typing import ClassVar

import torch

from sedd_cli.core.graphs import Transition
from sedd_cli.core.samplers.base import SAMPLERS
from sedd_cli.core.samplers.stepper import Stepper
from sedd_cli.core.schedules import SCHEDULES, Schedule


@SCHEDULES.register
@dataclass(frozen=True)
class Constant(Schedule):
    name: ClassVar[str] = "constant"
    sigma_max: float = 8.0

    def __call__(self, t):
        return self.sigma_max * t, torch.full_like(t, self.sigma_max)

    def t(self, sigma):
        return sigma / self.sigma_max


@SAMPLERS.register
@dataclass(frozen=True)
class FrozenRates(Stepper):
    name: ClassVar[str] = "frozen_rates"

    def transition(self, model, log_score, x, t, s):
        rates = model.graph.reverse_rates(log_score, x)
        events = (t - s) * model.schedule(t)[1] * rates.sum(-1, dtype=torch.float64)
        return Transition(-torch.expm1(-events), rates)
"""


@contextmanager
def nothing_imported() -> Iterator[None]:
    """Forget, at both ends, the parts that were imported from outside: as in a process that has just begun."""
    names = {key: set(registry) for key, registry in outside.REGISTRIES.items()}
    path = list(sys.path)
    known = dict(outside._GIVEN)
    outside._warn.cache_clear()
    try:
        yield
    finally:
        for key, registry in outside.REGISTRIES.items():
            for name in set(registry) - names[key]:
                sys.modules.pop(registry._classes.pop(name).__module__, None)
        for name in set(outside._GIVEN) - set(known):
            sys.modules.pop(name, None)
        sys.path[:] = path
        outside._GIVEN.clear()
        outside._GIVEN.update(known)
