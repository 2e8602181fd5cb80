"""The figure of a comparison: total variation against network evaluations."""

from __future__ import annotations

from pathlib import Path

from sedd_cli.evaluation.exact.results import ExactResult
from sedd_cli.system.plotting import empty_figure, save


def plot_exact(result: ExactResult, path: Path) -> None:
    """Plot total variation against the mean number of evaluations, one panel a graph; circles are enumerated."""
    graphs = list(dict.fromkeys(point.graph for point in result.points))
    figure = empty_figure(7 * len(graphs), 6)
    for axis, graph in zip(figure.subplots(1, len(graphs), squeeze=False)[0], graphs, strict=True):
        own = [point for point in result.points if point.graph == graph]
        labels = list(dict.fromkeys(point.label for point in own))
        for number, label in enumerate(labels):
            points = sorted((one for one in own if one.label == label), key=lambda one: one.evaluations)
            marker = "o" if points[0].distance.draws is None else "x"
            style = ("-", "--", ":")[number // 10 % 3]
            tv = [max(point.distance.tv, 1e-5) for point in points]
            axis.plot([point.evaluations for point in points], tv, style, marker=marker, ms=4, lw=1, label=label)
        axis.set(xscale="log", yscale="log", xlabel="network evaluations (mean)", ylabel="total variation", title=graph)
        ticks = sorted({point.budget for point in own})
        axis.set_xticks(ticks, [str(tick) for tick in ticks])
        axis.minorticks_off()
        axis.grid(alpha=0.3)
        axis.legend(frameon=False, fontsize=6, ncols=2)
    figure.suptitle(f"{result.title}\ndistances below 1e-5 are drawn at 1e-5; crosses: frequencies of draws", size=9)
    save(figure, path)
