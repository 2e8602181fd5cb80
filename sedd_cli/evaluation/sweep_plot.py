"""A sweep as figures: perplexity against steps, and against entropy."""

from __future__ import annotations

import itertools
from pathlib import Path

from sedd_cli.evaluation.controls import ENTROPY_MARGIN, Control
from sedd_cli.evaluation.sweep_results import SweepResult
from sedd_cli.system.plotting import empty_figure, save, steps_axes


def plot(result: SweepResult, path: Path) -> None:
    """Plot a sweep: generative perplexity against steps, with error bars, both logarithmic."""
    figure = empty_figure(6, 4)
    axis = figure.subplots()
    # with a loglinear schedule euler and tweedie coincide: open markers keep both curves visible
    styles, samplers = itertools.cycle(("o-", "s--", "^:", "D-.")), dict.fromkeys(p.sampler for p in result.points)
    for style, sampler in zip(styles, samplers, strict=False):
        points = sorted(
            (p for p in result.points if p.sampler == sampler and p.temperature in (None, 1.0)), key=lambda p: p.steps
        )
        values = [p.judged.per_sequence.perplexity for p in points]
        # an error bar must not reach below zero on a logarithmic axis
        errors = [min(p.judged.per_sequence.error or 0.0, 0.99 * v) for p, v in zip(points, values, strict=True)]
        axis.errorbar([p.steps for p in points], values, errors, fmt=style, ms=5, mfc="none", capsize=3, label=sampler)
    model, judge = Path(result.settings.model).name, Path(result.judge).name
    n = min(p.judged.samples for p in result.points)
    axis.set_title(f"{model} judged by {judge}: {n} samples a point ± standard error", size=10)
    steps_axes(axis, [p.steps for p in result.points])
    axis.legend(frameon=False)
    save(figure, path)


def plot_frontier(result: SweepResult, path: Path) -> None:
    """Plot generative perplexity against unigram entropy: a line over temperatures for each sampler and steps.

    Real text and the controls stand beside the lines. In the shaded part entropy is below that of real text by more
    than the margin: perplexities there do not count.
    """
    figure = empty_figure(7, 4.5)
    axis = figure.subplots()
    lines = dict.fromkeys((point.sampler, point.steps) for point in result.points)
    for style, (sampler, steps) in zip(itertools.cycle(("o-", "s--", "^:", "D-.")), lines, strict=False):
        points = [p.judged for p in result.points if (p.sampler, p.steps) == (sampler, steps)]
        places = [(p.unigram_entropy.nats, p.per_sequence.perplexity) for p in points]
        axis.plot(*zip(*places, strict=True), style, ms=5, mfc="none", label=f"{sampler}, {steps} steps")
    if (found := result.comparison) is not None:
        for marker, control in zip(itertools.cycle("x+1234"), found.controls, strict=False):
            axis.plot(*_place(control), marker, color="0.4", label=control.name)
        real = _place(found.real)
        axis.plot(*real, "k*", ms=10, label=f"real text ({found.corpus}, {found.split})")
        if real[0] is not None:
            left = axis.get_xlim()[0]
            axis.axvspan(left, real[0] - ENTROPY_MARGIN, color="0.9", zorder=0)
            axis.set_xlim(left=left)
    axis.set(yscale="log", xlabel="unigram entropy of a sample, nats", ylabel="generative perplexity, per sequence")
    axis.grid(alpha=0.3)
    axis.legend(frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
    save(figure, path)


def _place(control: Control) -> tuple[float | None, float]:
    return control.judged.unigram_entropy.nats, control.judged.per_sequence.perplexity
