"""Tables of the quality of samples."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.table import Table

from sedd_cli.cli.view.results import plus_minus

if TYPE_CHECKING:
    from sedd_cli.evaluation.exact.sweep import ExactPoint, ExactResult
    from sedd_cli.evaluation.judge import JudgeResult
    from sedd_cli.evaluation.sweep import SweepResult


def judgement_table(found: JudgeResult) -> Table:
    """Generative perplexity and diversity of one set of samples."""
    table = Table(
        title=f"{found.samples} samples, {found.tokens:,} tokens predicted by {found.judge}",
        title_justify="left",
        show_header=False,
    )
    table.add_column(style="dim")
    table.add_column(justify="right")
    both = {"perplexity per sequence (SEDD)": found.per_sequence, "perplexity pooled (MDLM)": found.pooled}
    for name, of in both.items():
        table.add_row(name, plus_minus(of.perplexity, of.error, 2))
    entropy = found.unigram_entropy
    table.add_row("unigram entropy, nats", "-" if entropy.nats is None else plus_minus(entropy.nats, entropy.error, 3))
    table.add_row("distinct-1, -2, -3", "  ".join(_share(found.distinct[n]) for n in "123"))
    if found.with_self_bleu:
        table.add_row("self-BLEU-4", _share(found.self_bleu))
    table.add_row("network evaluations a sample", "unknown" if found.nfe is None else f"{found.nfe:.1f}")
    table.add_row("draws", found.draws or "unknown")
    return table


def sweep_table(found: SweepResult) -> Table:
    """One row per sampler and number of steps."""
    table = Table(title=f"{found.settings.model} judged by {found.judge}", title_justify="left", header_style="bold")
    table.add_column("sampler")
    for name in ("steps", "NFE", "per sequence", "pooled", "entropy", "dist-2"):
        table.add_column(name, justify="right")
    for point in found.points:
        judged = point.judged
        table.add_row(
            point.sampler,
            f"{point.steps:,}",
            f"{judged.nfe:.1f}",
            *(plus_minus(of.perplexity, of.error, 1) for of in (judged.per_sequence, judged.pooled)),
            _share(judged.unigram_entropy.nats),
            _share(judged.distinct["2"]),
        )
    return table


def exact_table(found: ExactResult) -> Table:
    """One row per graph and sampler, one column per number of evaluations: total variation and KL in nats."""
    from sedd_cli.evaluation.exact.sweep import nearest_samplers

    budgets = sorted({point.budget for point in found.points})
    table = Table(
        title=f"{found.source}: total variation, KL in nats, from {found.reference}",
        caption="at most so many network evaluations, * the nearest; ~ of drawn samples, where exact draws give the "
        "values in brackets; all others enumerated, without sampling error",
        title_justify="left",
        caption_justify="left",
        header_style="bold",
    )
    table.add_column("sampler")
    for budget in budgets:
        table.add_column(str(budget), justify="right")
    rows: dict[tuple[str, str], dict[int, ExactPoint]] = {}
    for point in found.points:
        rows.setdefault((point.graph, point.label), {})[point.budget] = point
    nearest = nearest_samplers(found.points)
    graph = ""
    for (own, label), points in rows.items():
        if own != graph:
            graph = own
            table.add_section()
            table.add_row(graph, *[""] * len(budgets), style="bold")
        cells = [_distance(points.get(budget), label in nearest.get((own, budget), [])) for budget in budgets]
        table.add_row(label, *cells)
    return table


def _distance(point: ExactPoint | None, nearest: bool) -> str:
    if point is None:
        return "-"
    one = point.distance
    if one.draws is not None:
        return f"~{one.tv:.4f} ({one.tv_exact:.4f})"
    return f"{'*' if nearest else ''}{one.tv:.4f} {abs(one.kl):.4f}"


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
