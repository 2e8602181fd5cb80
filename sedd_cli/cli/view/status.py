"""The learning curve and the latest metrics of a run."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from sedd_cli.cli.view.curve import curve

if TYPE_CHECKING:
    from sedd_cli.training.status import Status


def draw_status(console: Console, found: Status) -> None:
    """Print the state of a run, its curve and its metrics."""
    where = f"{found.state} at step {found.step:,} of {found.steps:,}"
    checkpoint = f"latest checkpoint {found.checkpoint}" if found.checkpoint else "no checkpoint yet"
    console.print(Text.assemble((str(found.run), "bold"), f": {found.recipe}, {where}, {checkpoint}"))
    if found.reason:
        console.print(Text(found.reason, style="red"))
    points = [(r["step"], r["loss"]) for r in found.train if r["loss"] is not None]
    marks = [(r["step"], r["nats_per_token"]) for r in found.validation]
    if points:
        console.print(curve(points, marks, width=max(20, min(console.width - 20, 100))), end="")
        console.print(Text(" " * 11 + "nats per token" + ("; o: bound on validation" if marks else ""), style="dim"))
        console.print(_metrics(found.train[-1], found.validation, found.state))


def _metrics(last: dict[str, Any], validation: list[dict[str, Any]], state: str) -> Table:
    """The latest metrics, a row each."""
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(style="dim")
    table.add_column()
    rows = {
        "training loss": f"{last['loss']:.3f} nats/token" if last["loss"] is not None else "-",
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
    if validation:
        v = validation[-1]
        rows["o bound"] = (
            f"{v['bits_per_char']:.3f} ± {v['bits_per_char_error']:.3f} bits/char on {v['split']} at step {v['step']:,}"
        )
    if state == "running":
        rows["time left"] = str(timedelta(seconds=round(last["seconds_left"])))
    for name, value in rows.items():
        table.add_row(name, value)
    return table
