"""The learning curve and the latest metrics of a run."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table
from rich.text import Text

from sedd_cli.cli.view.curve import Line, chart
from sedd_cli.cli.view.results import plus_minus

if TYPE_CHECKING:
    from sedd_cli.training.runs.curves import Curve
    from sedd_cli.training.runs.series import SeriesPoint
    from sedd_cli.training.runs.stored import StoredBound
    from sedd_cli.training.status import Status

#: The widest a chart is drawn.
WIDEST = 100


def draw_status(console: Console, found: Status) -> None:
    """Print the state of a run, its curve and its metrics."""
    from sedd_cli.training.runs.curves import curve_of

    where = f"{found.state} at step {found.step:,} of {found.steps:,}"
    checkpoint = f"latest checkpoint {found.checkpoint}" if found.checkpoint else "no checkpoint yet"
    console.print(Text.assemble((str(found.run), "bold"), f": {found.recipe}, {where}, {checkpoint}"))
    if found.reason:
        console.print(Text(found.reason, style="red"))
    shown = curve_of(found)
    if shown.smooth:
        draw_curves(console, [shown], 12)
    if found.train or found.bound:
        console.print(_metrics(found))


def draw_curves(console: Console, curves: list[Curve], height: int) -> None:
    """Print curves over each other, with what their marks are."""
    from sedd_cli.training.runs.curves import named_levels, part_signs

    signs = part_signs(curves)
    lines = []
    for one in curves:
        marks: dict[str, list[tuple[float, float]]] = {}
        for part, points in one.marks.items():
            marks.setdefault(signs[part], []).extend(points)
        lines.append(Line(one.smooth, marks, one.name))
    console.print(chart(lines, named_levels(curves), max(20, min(console.width - 20, WIDEST)), height), end="")
    letters = ", ".join(one.name for one in curves if one.name)
    legend = [f"{letters}: " * bool(letters) + f"training loss, smoothed, in {curves[0].unit}"]
    legend += [f"{sign}: bound on {part}" for part, sign in signs.items()]
    for line in legend:
        console.print(Text(" " * 11 + line, style="dim"))


def first_and_last(marks: list[SeriesPoint]) -> str:
    """The first and the last of the likelihoods of one text; the only one where there is one."""
    ends = marks if len(marks) < 2 else [marks[0], marks[-1]]
    said = [f"{m.sign} {plus_minus(m.bits, m.error, 3)} bits/char at step {m.step:,}" for m in ends]
    return ", then ".join(said)


def spelled(bound: StoredBound) -> str:
    """A likelihood with its error and the text it is of."""
    part = f", {bound.part}" if bound.part else ""
    value = plus_minus(bound.bits, bound.error, 3)
    return f"{bound.sign} {value} bits/char on {bound.corpus} {bound.split}{part} at step {bound.step:,}"


def _metrics(found: Status) -> Table:
    """The latest metrics, a row each."""
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(style="dim", no_wrap=True)
    table.add_column()
    rows: dict[str, str] = {}
    if found.bound:
        rows["bound"] = spelled(found.bound)
        rows |= _other_bounds(found, found.bound)
    if found.baselines:
        grams = [f"{name} {bits:.3f}" for name, bits in found.baselines.items()]
        rows["baselines"] = ", ".join(grams) + " bits/char"
    elif not found.bound and found.checkpoint:
        rows["baselines"] = "none yet: sedd eval computes them, with a bound"
    if found.train:
        rows |= _latest(found)
    rows["time so far"] = str(timedelta(seconds=round(found.seconds)))
    if found.state == "running" and found.train:
        rows["time left"] = str(timedelta(seconds=round(found.train[-1]["seconds_left"])))
    for name, value in rows.items():
        table.add_row(name, value)
    return table


def _other_bounds(found: Status, bound: StoredBound) -> dict[str, str]:
    """The last likelihoods of other parts of the run's text than that of `bound`, and than that of validation."""
    from sedd_cli.training.runs.series import part_name, validated_part

    shown = {part_name(bound.split, bound.part), *(validated_part(v) for v in found.validation[-1:])}
    last = {part: points[-1] for part, points in found.series.items() if part not in shown}
    said = [
        f"{p.sign} {plus_minus(p.bits, p.error, 3)} bits/char on {part} at step {p.step:,}" for part, p in last.items()
    ]
    return {"other bounds": "\n".join(said)} if said else {}


def _latest(found: Status) -> dict[str, str]:
    """The latest metrics of the training, and of the validation."""
    from sedd_cli.training.runs.series import validated_part

    last, rows = found.train[-1], dict[str, str]()
    unit = " nats/token" if found.loss_is_bound else " (no likelihood)"
    if found.validation:
        part = validated_part(found.validation[-1])
        v = found.series[part][-1]
        rows["validation"] = (
            f"{v.sign} {plus_minus(v.bits, v.error, 3)} bits/char, {v.nats_per_token:.3f} nats/token on {part} "
            f"at step {v.step:,}"
        )
    rows |= {
        "training loss": "-" if last["loss"] is None else f"{last['loss']:.3f}{unit}",
        "gradient norm": "-" if last["grad_norm"] is None else f"{last['grad_norm']:.3g}",
        "rate": f"{last['tokens_per_second']:,.0f} tokens/s"
        + ("" if last["mfu"] is None else f", {last['mfu']:.0%} of the device's bf16 peak"),
        "memory": f"{last['memory'] / 1e9:.1f} GB",
    }
    if last["loss_by_t"]:
        levels = "  ".join("-" if v is None else f"{v:.3f}" for v in last["loss_by_t"])
        rows["by noise level"] = f"{levels}   (t from 0 to 1)"
    if last["skipped"]:
        rows["skipped steps"] = str(last["skipped"])
    return rows
