"""What a figure says of quality against steps: how straight it is in logarithms, and where it meets other models."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from sedd_cli.tables.column import Quality


def frontier(rows: Sequence[dict[str, Any]], columns: Sequence[Quality]) -> list[dict[str, Any]]:
    """For each row with three numbers of steps or more: the slope of log perplexity against log steps by least squares,
    the share of the variance that the line explains, and for each model that takes as many steps as there are tokens
    the fewest steps after which this row is no worse (None: never)."""
    steps = {column.name: column.steps for column in columns}
    levels = {row["label"]: one for row in rows if row["left_to_right"] for one in row["ours"].values()}
    found = []
    for row in rows:
        points = sorted((steps[name], value["mean"]) for name, value in row["ours"].items())
        if row["left_to_right"] or len(points) < 3:
            continue
        x, y = (np.array([math.log(v) for v in column]) for column in zip(*points, strict=True))
        slope, shift = np.polyfit(x, y, 1)
        spread = float(((y - y.mean()) ** 2).sum())
        explained = 1 - float(((y - slope * x - shift) ** 2).sum()) / spread if spread else 1.0
        matches = {
            name: next((step for step, value in points if value <= other["mean"]), None)
            for name, other in levels.items()
        }
        line = {"row": row["name"], "label": row["label"], "slope": float(slope), "explained": explained}
        found.append(line | {"matches": matches})
    return found
