"""Graphs: the forward processes. A new one is a file and an import here."""

from sedd_cli.core.graphs import (  # noqa: F401  (registers them)
    absorbing,
    gaussian,
    hybrid,
    nearest_neighbour,
    state_dependent,
    uniform,
)
from sedd_cli.core.graphs.base import GRAPHS, Graph
from sedd_cli.core.graphs.transition import Transition

__all__ = ["GRAPHS", "Graph", "Transition"]
