"""A table as a figure: learning curves of its rows, or sample quality against steps."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path

from sedd_cli.errors import RequestError
from sedd_cli.recipe import load_recipe
from sedd_cli.system.plotting import empty_figure, save, steps_axes
from sedd_cli.tables.column import Quality
from sedd_cli.tables.document import TableSummary, numbers
from sedd_cli.tables.markdown import samples_of
from sedd_cli.tables.row_run import RowRun
from sedd_cli.tables.row_status import run_state
from sedd_cli.training.status import status


def plot(found: TableSummary, runs: Sequence[RowRun], path: Path) -> None:
    """Write a PNG of a summary. RequestError if nothing was measured yet."""
    title = f"{found.title}, at laptop size" if found.mini else found.title
    if found.unit == "generative_perplexity":
        _frontiers(title, found, path)
    else:
        _curves(title, runs, path)


def _curves(title: str, runs: Sequence[RowRun], path: Path) -> None:
    """The bound on validation text against training tokens: a line for each run that counts, a colour for each row."""
    figure = empty_figure(9, 5)
    axis, colours, drawn = figure.subplots(), {}, set()
    for run in runs:
        folder = run.trained.folder
        if run.training is None or folder in drawn or run_state(run)[0] in ("missing", "other"):
            continue
        recipe, seen = load_recipe(folder / "recipe.yaml"), status(folder).validation
        if not seen:
            continue
        each = recipe.train.batch * recipe.model.length
        drawn.add(folder)
        (line,) = axis.plot(
            [r["step"] * each for r in seen],
            [r["bits_per_char"] for r in seen],
            marker="o",
            ms=3,
            lw=1.2,
            label=name if (name := run.trained.label) not in colours else None,
            color=colours.get(name),
        )
        colours[name] = line.get_color()
    if not drawn:
        raise RequestError("no run of this table has a validation result yet: nothing to plot")
    axis.set(xlabel="tokens seen", ylabel="bits per character of validation text, at most", title=title)
    axis.legend(frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
    axis.grid(alpha=0.3)
    save(figure, path)


def _frontiers(title: str, found: TableSummary, path: Path) -> None:
    """Generative perplexity against steps, both axes logarithmic. An autoregressive model is a horizontal line."""
    figure = empty_figure(8, 4.5)
    axis, steps = figure.subplots(), {c.name: c.steps for c in found.columns if isinstance(c, Quality)}
    drawn, styles = False, itertools.cycle(("o-", "s--", "^-", "D--", "v:", "P:"))
    for row in found.rows:
        points = sorted((steps[name], cell.mean, cell.error) for name, cell in numbers(row).items())
        if points and row.left_to_right:
            (line,) = axis.plot(list(steps.values()), [points[0][1]] * len(steps), "-.", lw=1, label=row.label)
            axis.plot(*points[0][:2], "*", ms=10, color=line.get_color())
        elif points:
            x, y, error = zip(*points, strict=True)
            # an error bar must not reach below zero on a logarithmic axis
            error = [min(e, 0.99 * v) for e, v in zip(error, y, strict=True)]
            axis.errorbar(x, y, error, fmt=next(styles), ms=5, mfc="none", capsize=3, label=row.label)
        drawn = drawn or bool(points)
    if not drawn:
        raise RequestError("no row of this figure is measured yet: nothing to plot")
    steps_axes(axis, list(steps.values()))
    axis.set_title(f"{title}: {samples_of(found)}", size=10)
    axis.legend(frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
    save(figure, path)
