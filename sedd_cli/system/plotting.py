"""Figures as PNG files, with matplotlib."""

from __future__ import annotations

import io
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from sedd_cli.errors import WorkError, one_line
from sedd_cli.system.files import write_whole

#: Most characters of a name in a figure.
LABEL = 80


def empty_figure(width: float, height: float) -> Any:
    """An empty matplotlib figure, sizes in inches."""
    import matplotlib.figure

    return matplotlib.figure.Figure(figsize=(width, height), layout="constrained")


def as_label(text: str) -> str:
    """A name of others for a figure: in one line, short, without control characters and without mathematics."""
    return one_line(text, LABEL).replace("$", r"\$")


def steps_axes(axis: Any, steps: Iterable[int]) -> None:
    """Set up logarithmic axes for generative perplexity against numbers of sampling steps."""
    from matplotlib.ticker import LogLocator, NullLocator, StrMethodFormatter

    axis.set(xscale="log", yscale="log", xlabel="steps", ylabel="generative perplexity, per sequence")
    ticks = sorted(set(steps))
    axis.set_xticks(ticks, [str(tick) for tick in ticks])
    axis.xaxis.set_minor_locator(NullLocator())
    # ticks at 1, 1.5, 2 … of each power of ten, since the axis often spans less than one power
    axis.yaxis.set_major_locator(LogLocator(subs=(1, 1.5, 2, 3, 5, 7)))
    axis.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axis.yaxis.set_minor_locator(NullLocator())
    axis.grid(alpha=0.3)


def save(figure: Any, path: Path) -> None:
    """Write the figure as a PNG; WorkError if that fails."""
    try:
        write_whole(path, as_png(figure))
    except OSError as error:
        raise WorkError(f"cannot write {path}: {error.strerror}") from None


def as_png(figure: Any) -> bytes:
    """The figure as a PNG."""
    drawn = io.BytesIO()
    figure.savefig(drawn, format="png", dpi=150)
    return drawn.getvalue()
