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
        width = max(20, min(console.width - 20, WIDEST))
        console.print(chart([Line(shown.smooth, shown.marks)], shown.levels, width), end="")
        circles = "; o: bound" if shown.marks else ""
        console.print(Text(" " * 11 + f"training loss, smoothed, in {shown.unit}{circles}", style="dim"))
    if found.train or found.bound:
        console.print(_metrics(found))


def spelled(bound: StoredBound) -> str:
    """A likelihood with its error and the text it is of."""
    part = "" if bound.blocks_asked is None else f", first {bound.blocks:,} blocks"
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
        grams = [f"{name} {bits:.3f}" for name, bits in found.baselines.items()]
        if grams:
            rows["baselines"] = ", ".join(grams) + " bits/char"
    if found.train:
        rows |= _latest(found)
    rows["time so far"] = str(timedelta(seconds=round(found.seconds)))
    if found.state == "running" and found.train:
        rows["time left"] = str(timedelta(seconds=round(found.train[-1]["seconds_left"])))
    for name, value in rows.items():
        table.add_row(name, value)
    return table


def _latest(found: Status) -> dict[str, str]:
    """The latest metrics of the training, and of the validation."""
    last, rows = found.train[-1], dict[str, str]()
    unit = " nats/token" if found.loss_is_bound else " (no likelihood)"
    if found.validation:
        v = found.validation[-1]
        rows["validation"] = (
            f"{plus_minus(v['bits_per_char'], v['bits_per_char_error'], 3)} bits/char, {v['nats_per_token']:.3f} "
            f"nats/token on {v['blocks']:,} blocks at step {v['step']:,}"
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
