"""The tables of `sedd bench`."""

from __future__ import annotations

from typing import Any

from rich.table import Table

from sedd_cli.errors import plus_minus
from sedd_cli.training.durations import in_words

#: Columns of the table: heading, key of a path's metrics, format.
COLUMNS = (
    ("tokens/s", "tokens_per_second", "{:,.0f}"),
    ("extra MiB", "extra_mib", "{:,.0f}"),
    ("beyond gradients", "beyond_gradients_mib", "{:,.0f}"),
    ("TFLOP/s", "flops", "{:,.3f}"),
    ("of peak", "share_of_measured_peak", "{:.0%}"),
    ("MFU", "mfu", "{:.0%}"),
    ("evals", "evaluations", "{:,}"),
    ("s/eval", "seconds_per_evaluation", "{:.3f}"),
    ("seconds", "seconds", "{:,.1f}"),
)


def bench_table(result: dict[str, Any]) -> Table:
    """The paths of a bench and what was measured of each; `result` is its JSON document."""
    table = Table(title=f"bench {result['bench']}: {result['tokens']:,} tokens", title_justify="left")
    table.add_column("path")
    columns = [c for c in COLUMNS if any(c[1] in found for found in result["paths"].values())]
    for heading, _, _ in columns:
        table.add_column(heading, justify="right")
    for path, found in result["paths"].items():
        table.add_row(path, *(_cell(found.get(key), key, form) for _, key, form in columns))
    table.caption, table.caption_justify = _caption(result), "left"
    return table


def _cell(value: Any, key: str, form: str) -> str:
    return "" if value is None else form.format(value / 1e12 if key == "flops" else value)


def _caption(result: dict[str, Any]) -> str:
    """What was measured and how, a line each."""
    runs = max(len(found["runs"]) for found in result["paths"].values())
    lines = [f"medians of {runs} runs" if runs > 1 else "one run of each", f"ratio {result['ratio']:.2f}"]
    ours, _, *others = result["paths"].items()
    for name, found in others:
        lines[1] += f" ({ours[1]['tokens_per_second'] / found['tokens_per_second']:.2f} to {name})"
    if "ratio_per_evaluation" in result:
        lines[0] += ", plain from single steps"
        lines[1] += f" ({result['ratio_per_evaluation']:.2f} an evaluation)"
        if fallbacks := result["paths"]["sedd"]["fallbacks"]:
            lines[0] += f", {fallbacks} steps of ours scored every position"
    if "network" in result:
        net, threads = result["network"], f"{result['threads']} threads" if result["device"] == "cpu" else ""
        shape = f"{net['n_blocks']} blocks of {net['hidden_size']}, {result['batch']} × {result['length']} tokens"
        ours = f"ours in {result['precision']}" + (", compiled" if result.get("compiled") else "")
        kinds = [ours, "plain in fp32", f"attention {result.get('attention', '')}", threads]
        lines.insert(0, ", ".join([f"{result['recipe']}: {shape}", *(k for k in kinds if k and k != "attention ")]))
    if "matmul_peak" in result:
        measured = f"{result['matmul_peak'] / 1e12:,.3f} TFLOP/s"
        lines.append(f"peak of {result['matmul_peak_precision']} products measured here {measured}")
    if "recipe_hours_here" in result:
        lines.append(f"all of the recipe's steps at this rate: {in_words(3600 * result['recipe_hours_here'])}")
    return "\n".join(lines)


def speedrun_table(result: dict[str, Any]) -> Table:
    """The models of a speedrun against time; `result` is its JSON document."""
    table = Table(title=f"speedrun of {result['recipe']}", title_justify="left")
    for heading in ("seconds", "step", "tokens", "split", "bits/char"):
        table.add_column(heading, justify="left" if heading == "split" else "right")
    for point in result["points"]:
        value = f"{point['sign']} {plus_minus(point['bits_per_char'], point['bits_per_char_error'], 3)}"
        numbers = (f"{point[key]:,.0f}" for key in ("seconds", "step", "tokens"))
        table.add_row(*numbers, point["split"], value)
    ended = f"all done after {result['seconds']:,.0f} s"
    if result["step"] < result["steps"]:
        ended = f"stopped after {result['seconds']:,.0f} s at step {result['step']:,} of {result['steps']:,}"
    allowed = f"{60 * result['minutes']:,.0f} s allowed"
    table.caption = f"{ended}, {allowed}; {result['memory'] / 1e9:.1f} GB; {result['threads']} threads"
    table.caption_justify = "left"
    return table
