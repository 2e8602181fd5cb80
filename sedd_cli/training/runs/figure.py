"""Learning curves as figures."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from sedd_cli.errors import RequestError
from sedd_cli.system.events import bin_names
from sedd_cli.system.plotting import as_label, empty_figure, save
from sedd_cli.training.runs.compare import Comparison
from sedd_cli.training.runs.curves import OWN, Curve, curve_of, named_levels, part_signs, smoothed
from sedd_cli.training.status import Status

#: Height of a line of a legend, in inches.
LEGEND_LINE = 0.22


def plot_status(found: Status, path: Path) -> None:
    """Write the learning curve of a run, and its loss by noise level, as a PNG; RequestError without metrics."""
    if not found.train:
        raise RequestError(f"{found.run} has no metrics yet, there is nothing to plot")
    bins = bin_names(found.train[0]["loss_by_t"])
    figure = empty_figure(10 if bins else 6, 4)
    whole, *others = figure.subplots(1, 2 if bins else 1, sharex=True, squeeze=False)[0]
    shown = curve_of(found)
    draw_curves(whole, [shown], found.recipe)
    for by_t in others:
        for i, name in enumerate(bins):
            points = [(r["step"], r["loss_by_t"][i]) for r in found.train if r["loss_by_t"][i] is not None]
            by_t.plot(*_columns(smoothed(points)), lw=1, label=f"t {name}")
        _finish(by_t, "training loss by noise level", "nats/token" if found.loss_is_bound else OWN)
    save(figure, path)


def curves_figure(found: Comparison) -> Any:
    """The overlaid curves of several runs."""
    entries = sum(1 + len(curve.marks) for curve in found.curves)
    figure = empty_figure(8, 5 + LEGEND_LINE * entries)
    named = ((curve, as_label(f"{curve.name} {one.run}")) for curve, one in zip(found.curves, found.runs, strict=True))
    draw_curves(figure.subplots(), [replace(curve, name=name) for curve, name in named], "")
    return figure


def draw_curves(axis: Any, curves: list[Curve], title: str) -> None:
    """Smoothed training loss with its raw values behind it, marks for the bounds of each part, dashed baselines."""
    signs = part_signs(curves)
    for number, one in enumerate(curves):
        colour, named = f"C{number}", f"{one.name}: " if len(curves) > 1 else ""
        axis.plot(*_columns(one.raw), lw=0.5, alpha=0.25, color=colour)
        mark = "." if len(one.smooth) == 1 else None  # a line of one point is not drawn
        axis.plot(*_columns(one.smooth), lw=1.5, marker=mark, color=colour, label=f"{named}training loss")
        for part, marks in one.marks.items():
            axis.plot(*_columns(marks), signs[part], ms=5, mfc="white", color=colour, label=f"{named}bound, {part}")
    for name, value in named_levels(curves).items():
        axis.axhline(value, ls="--", lw=1, color="0.4")
        axis.annotate(f"{name} {value:.3f}", (1, value), xycoords=("axes fraction", "data"), ha="right", va="bottom")
    _finish(axis, title, curves[0].unit)
    if len(curves) > 1:  # a long legend in the axes would cover curves and the names of baselines
        axis.legend(frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.12))


def _columns(points: list[tuple[float, float]]) -> tuple[list[float], list[float]]:
    return [x for x, _ in points], [y for _, y in points]


def _finish(axis: Any, title: str, unit: str) -> None:
    axis.set(xlabel="step", ylabel=unit, title=title)
    axis.legend(frameon=False)
    axis.grid(alpha=0.3)
