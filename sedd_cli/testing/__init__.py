"""Checks of a part from outside the package: the tests that its own parts pass, against slow, obvious truths."""

from sedd_cli.testing.graphs import check_graph
from sedd_cli.testing.losses import check_loss
from sedd_cli.testing.samplers import check_sampler
from sedd_cli.testing.schedules import check_schedule

__all__ = ["check_graph", "check_loss", "check_sampler", "check_schedule"]
