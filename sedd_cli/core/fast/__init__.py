"""Faster implementations of the losses and sampling steps for particular graphs.

Tests compare each with the formula for any graph in `losses` or `samplers`.
"""

from __future__ import annotations

from typing import Any

from sedd_cli.core.fast.absorbing import AbsorbingKernels
from sedd_cli.core.fast.base import Kernels
from sedd_cli.core.fast.uniform import UniformKernels
from sedd_cli.core.graphs import Graph

KERNELS: dict[str, type[Kernels[Any]]] = {"absorbing": AbsorbingKernels, "uniform": UniformKernels}


def kernels_of(graph: Graph) -> Kernels[Any] | None:
    """The graph's kernels; None where it has none."""
    kind = KERNELS.get(graph.name)
    return None if kind is None else kind(graph)
