"""Tables of the quality of samples."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich import box
from rich.console import Console, ConsoleOptions, RenderResult
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from sedd_cli.errors import plus_minus

if TYPE_CHECKING:
    from sedd_cli.evaluation.controls import ControlSet
    from sedd_cli.evaluation.exact.results import ExactPoint, ExactResult
    from sedd_cli.evaluation.judge import JudgeResult
    from sedd_cli.evaluation.sweep_results import SweepPoint, SweepResult


@dataclass(frozen=True)
class Phrases:
    """A cell that breaks behind commas alone: "tweedie, 16 steps, T 0.5" keeps "T 0.5" together."""

    text: str

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        found = [len(phrase) for phrase in self.lines(0)]
        return Measurement(max(found), len(self.text))

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield Text("\n".join(self.lines(options.max_width)))

    def lines(self, width: int) -> list[str]:
        """Phrases joined to lines of at most this width, where a phrase is no longer."""
        lines: list[str] = []
        for phrase in self.text.replace(", ", ",\n").split("\n"):
            if lines and len(lines[-1]) + 1 + len(phrase) <= width:
                lines[-1] += f" {phrase}"
            else:
                lines.append(phrase)
        return lines


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
    """One row per sampler, number of steps and temperature, then real text and the controls."""
    table = _quality_table(f"{found.settings.model} judged by {found.judge}")
    for point in found.points:
        table.add_row(Phrases(point_name(point)), *_quality(point.judged), ", ".join(found.marks(point)))
    if found.comparison is not None:
        _add_controls(table, found.comparison)
    return table


def exact_table(found: ExactResult) -> Table:
    """One row per graph and sampler, one column per number of evaluations: total variation and KL in nats."""
    from sedd_cli.evaluation.exact.results import KL, nearest_samplers

    budgets = sorted({point.budget for point in found.points})
    table = Table(
        title=f"{found.title}: total variation, {KL} in nats, from {found.reference}",
        caption="at most so many network evaluations, * the nearest; ~ of drawn samples, where exact draws give the "
        "values in brackets; all others enumerated, without sampling error",
        title_justify="left",
        caption_justify="left",
        header_style="bold",
        box=box.SIMPLE_HEAD,
        padding=0,
    )
    table.add_column("sampler", min_width=len("entropy, 2 blocks"))
    for budget in budgets:
        table.add_column(str(budget), justify="right", max_width=len("*0.0000 0.0000"))
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
        table.add_row(Phrases(label), *cells)
    return table


def _distance(point: ExactPoint | None, nearest: bool) -> str:
    if point is None:
        return "-"
    one = point.distance
    if one.draws is not None:
        return f"~{one.tv:.4f} ({one.tv_exact:.4f})"
    return f"{'*' if nearest else ''}{one.tv:.4f} {abs(one.kl):.4f}"


def point_name(point: SweepPoint) -> str:
    """Sampler, steps and temperature of a point, in words."""
    at = "" if point.temperature is None else f", T {point.temperature:g}"
    return f"{point.sampler}, {point.steps:,} steps{at}"


def comparison_table(found: JudgeResult, beside: ControlSet) -> Table:
    """The samples beside real text and the controls."""
    table = _quality_table(f"beside text of {beside.corpus} ({beside.split}), and controls from its training split")
    table.add_row("these samples", *_quality(found), ", ".join(beside.marks(found)))
    _add_controls(table, beside)
    return table


def _quality_table(title: str) -> Table:
    """An empty table whose columns are the name of some texts, what `_quality` gives of them, and marks."""
    table = Table(title=title, title_justify="left", header_style="bold", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("", min_width=len("1,024 steps, T 0.85"))
    for name in ("NFE", "perplexity", "entropy", "dist-2", "self-\nBLEU"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("mark", style="yellow", min_width=len("low entropy,"))
    return table


def _add_controls(table: Table, beside: ControlSet) -> None:
    table.add_section()
    for control in (beside.real, *beside.controls):
        table.add_row(Phrases(control.name), *_quality(control.judged), ", ".join(control.marks))


def _quality(judged: JudgeResult) -> list[str]:
    """Evaluations, perplexity per sequence, entropy, distinct-2 and self-BLEU of a set of texts."""
    perplexity, nfe = judged.per_sequence, "" if judged.nfe is None else f"{judged.nfe:.1f}"
    found = plus_minus(perplexity.perplexity, perplexity.error, 1 if perplexity.perplexity < 1000 else 0)
    return [nfe, found, *map(_share, (judged.unigram_entropy.nats, judged.distinct["2"], judged.self_bleu))]


def verdict(found: JudgeResult, beside: ControlSet | None) -> list[str]:
    """What the controls say about the perplexity of some samples, in lines."""
    lines = _better(found, beside, "these samples")
    if beside is not None and (marked := beside.marks(found)):
        lines.append(f"the perplexity of these samples does not count: {' and '.join(EXPLAINED[m] for m in marked)}")
    return lines


def sweep_verdict(found: SweepResult) -> list[str]:
    """What the controls say about the points of a sweep: of the lowest perplexity, and of all that are marked."""
    best = min(found.points, key=lambda point: point.judged.per_sequence.perplexity)
    lines = _better(best.judged, found.comparison, point_name(best))
    for mark, reason in EXPLAINED.items():
        if names := [point_name(point) for point in found.points if mark in found.marks(point)]:
            which = "all points" if len(names) == len(found.points) > 1 else "; ".join(names)
            lines.append(f"the perplexity of {which} does not count: {reason}")
    return lines


def _better(found: JudgeResult, beside: ControlSet | None, name: str) -> list[str]:
    """A line about the controls of a lower perplexity, if there are any."""
    if beside is None:
        return ["no real text and no controls stand beside this perplexity: name a corpus with --reference"]
    if not (better := beside.better(found)):
        return []
    each = (control.name + (f" ({', '.join(control.marks)})" if control.marks else "") for control in better)
    return [f"without a network, these have a lower perplexity than {name}: {'; '.join(each)}"]


#: A mark in words.
EXPLAINED = {
    "low entropy": "their unigram entropy is below that of real text by more than 0.2 nats",
    "alike": "their self-BLEU is above that of real text by more than 0.2",
}


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
