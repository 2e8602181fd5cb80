"""Tables of the quality of samples."""

from __future__ import annotations

from typing import Any

from rich.table import Table

from sedd_cli.cli.view.results import plus_minus


def judgement_table(found: dict[str, Any]) -> Table:
    """Generative perplexity and diversity of one set of samples."""
    table = Table(
        title=f"{found['samples']} samples, {found['tokens']:,} tokens predicted by {found['judge']}",
        title_justify="left",
        show_header=False,
    )
    table.add_column(style="dim")
    table.add_column(justify="right")
    for name, key in (("perplexity per sequence (SEDD)", "per_sequence"), ("perplexity pooled (MDLM)", "pooled")):
        table.add_row(name, plus_minus(found[key]["perplexity"], found[key]["error"], 2))
    table.add_row("unigram entropy, nats", _entropy(found["unigram_entropy"]))
    table.add_row("distinct-1, -2, -3", "  ".join(_share(found["distinct"][n]) for n in "123"))
    if "self_bleu" in found:
        table.add_row("self-BLEU-4", _share(found["self_bleu"]))
    table.add_row("network evaluations a sample", "unknown" if found["nfe"] is None else f"{found['nfe']:.1f}")
    table.add_row("draws", found["draws"] or "unknown")
    return table


def sweep_table(found: dict[str, Any]) -> Table:
    """One row per sampler and number of steps."""
    table = Table(title=f"{found['model']} judged by {found['judge']}", title_justify="left", header_style="bold")
    table.add_column("sampler")
    for name in ("steps", "NFE", "per sequence", "pooled", "entropy", "dist-2"):
        table.add_column(name, justify="right")
    for point in found["points"]:
        table.add_row(
            point["sampler"],
            f"{point['steps']:,}",
            f"{point['nfe']:.1f}",
            *(plus_minus(point[key]["perplexity"], point[key]["error"], 1) for key in ("per_sequence", "pooled")),
            _share(point["unigram_entropy"]["nats"]),
            _share(point["distinct"]["2"]),
        )
    return table


def _entropy(entropy: dict[str, Any]) -> str:
    return "-" if entropy["nats"] is None else plus_minus(entropy["nats"], entropy["error"], 3)


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
