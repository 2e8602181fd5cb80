"""Graphs: the forward processes. A new one is a file and an import here."""

from sedd_cli.core.graphs import absorbing, gaussian, hybrid, nearest_neighbour, uniform  # noqa: F401  (registers them)
from sedd_cli.core.graphs.base import GRAPHS, Graph
from sedd_cli.core.graphs.transition import Transition

__all__ = ["GRAPHS", "Graph", "Transition"]
