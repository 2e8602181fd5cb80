"""Sample quality against steps: the slope of a line in logarithms, and the steps that match other models."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class QualityCurve:
    """Values of a row by number of steps. left_to_right: an autoregressive model, with a single value."""

    name: str
    label: str
    left_to_right: bool
    points: Mapping[int, float]


@dataclass(frozen=True)
class FrontierLine:
    """A least-squares line of log perplexity against log steps.

    explained: the share of the variance that the line explains. matches: label of an autoregressive model → the fewest
    steps after which this row is no worse; None: never.
    """

    row: str
    label: str
    slope: float
    explained: float
    matches: dict[str, int | None]

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def frontier(curves: Sequence[QualityCurve]) -> tuple[FrontierLine, ...]:
    """A line for each row with at least three numbers of steps."""
    levels = {curve.label: value for curve in curves if curve.left_to_right for value in curve.points.values()}
    lines = []
    for curve in curves:
        points = sorted(curve.points.items())
        if curve.left_to_right or len(points) < 3:
            continue
        x, y = (np.array([math.log(v) for v in values]) for values in zip(*points, strict=True))
        slope, intercept = np.polyfit(x, y, 1)
        variance = float(((y - y.mean()) ** 2).sum())
        explained = 1 - float(((y - slope * x - intercept) ** 2).sum()) / variance if variance else 1.0
        matches = {label: next((s for s, value in points if value <= level), None) for label, level in levels.items()}
        lines.append(FrontierLine(curve.name, curve.label, float(slope), explained, matches))
    return tuple(lines)
