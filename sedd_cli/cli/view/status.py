"""`sedd train --status`: a run's curve and figures, and its PNG."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

from rich.table import Table
from rich.text import Text

from sedd_cli.cli.view.curve import curve
from sedd_cli.cli.view.view import View


def show_status(view: View, run: Path, png: bool) -> None:
    """Print how the run stands; with `png`, write RUN/curve.png."""
    from sedd_cli.training.status import plot, status

    found = status(run)
    document = found.to_dict()
    if png:
        plot(found, run / "curve.png")
        document["png"] = str(run / "curve.png")
    view.document(document)
    if view.quiet:
        return
    where = f"{found.state} at step {found.step:,} of {found.steps:,}"
    checkpoint = f"latest checkpoint {found.checkpoint}" if found.checkpoint else "no checkpoint yet"
    view.console.print(Text.assemble((str(found.run), "bold"), f": {found.recipe}, {where}, {checkpoint}"))
    if found.reason:
        view.console.print(Text(found.reason, style="red"))
    points = [(r["step"], r["loss"]) for r in found.train if r["loss"] is not None]
    marks = [(r["step"], r["nats_per_token"]) for r in found.validation]
    if points:
        view.console.print(curve(points, marks, width=max(20, min(view.console.width - 20, 100))), end="")
        view.console.print(
            Text(" " * 11 + "nats per token" + ("; o: bound on validation" if marks else ""), style="dim")
        )
        view.console.print(_figures(found.train[-1], found.validation, found.state))
    if png:
        view.console.print(Text(f"wrote {document['png']}"))


def _figures(last: dict, validation: list[dict], state: str) -> Table:
    """The last figures, two columns."""
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
