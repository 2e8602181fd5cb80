"""Graphs: the forward processes of the paper. A new one is a file and a line here."""

from sedd_cli.core.graphs import absorbing, uniform  # noqa: F401  (registers them)
from sedd_cli.core.graphs.base import GRAPHS, Graph, Transition

__all__ = ["GRAPHS", "Graph", "Transition"]
