"""Tables of evaluation results."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.table import Table

from sedd_cli.core.protocols import protocol_name, sign
from sedd_cli.errors import plus_minus, spelled_error

if TYPE_CHECKING:
    from sedd_cli.evaluation.cloze.results import ClozeResult

#: Units of the paper's values → short words.
UNITS = {"perplexity": "ppl", "bits_per_char": "bits/char"}
SEDD = "SEDD"
#: Names of models by objective, where they are spelled otherwise than the objective.
KINDS = {
    "autoregressive": "autoregressive",
    "concrete_score": "concrete score",
    "d3pm": "D3PM",
    "masked_cross_entropy": "masked CE",
    "plug_in_score_entropy": "plug-in",
}
#: Why there is no error due to the choice of text.
HIDDEN = "± text -: lost in the error of the draws; more of them (a smaller --rel-error) may show it"
#: Outcomes of the model and the 5-gram on the same gap → labels.
PAIRED = {
    "both": "both",
    "only model": "{name}, not the 5-gram",
    "only 5-gram": "5-gram, not {name}",
    "neither": "neither",
}


def bounds_table(result: dict[str, Any]) -> Table:
    """Bounds or exact likelihoods of one split with errors, the paper's value and the baselines."""
    tokens, characters, part = result["tokens"], result["characters"], ""
    if result.get("blocks_asked"):
        most = max(result["bounds"].values(), key=lambda found: found["tokens"])
        tokens, characters, part = most["tokens"], most["characters"], f", the first {most['blocks']:,} blocks"
    title = f"{result['corpus']} {result['split']}{part}: {tokens:,} tokens, {characters:,} characters"
    table = _table(title, result.get("paper"))
    for protocol, found in result["bounds"].items():
        way = protocol_name(protocol, found.get("process"))
        table.add_row(f"{_kind(result, protocol)} ({way})", *_values(result, protocol, found))
    notes = [HIDDEN] if any(map(_hidden, result["bounds"].values())) else []
    if result.get("paper") and any("gram" in name for name in result.get("baselines", {})):
        notes.append("n-grams are of the training split")
    table.caption, table.caption_justify = "; ".join(notes) or None, "left"
    for name, bits in result.get("baselines", {}).items():
        fitted = " (of train)" if "gram" in name and not result.get("paper") else ""
        table.add_row(f"{name}{fitted}", f"{bits:.3f}", style="dim")
    source = result.get("baselines", {}).get("the source itself")
    bound = result["bounds"].get("rigorous") or result["bounds"].get("discrete")
    if source and bound:
        gap = plus_minus(bound["bits_per_char"] - source, bound["bits_per_char_error"], 3)
        table.add_row("gap to the source", gap, style="bold")
    return table


def comparison(results: list[dict[str, Any]]) -> Table:
    """Several splits, a row for each split and protocol."""
    paper = any(r.get("paper") for r in results)
    table = Table("text", "protocol", header_style="bold")
    for name in ("bits/char", "± text", "perplexity/token", *(["paper"] if paper else [])):
        table.add_column(name, justify="right")
    for result in results:
        for protocol, found in result["bounds"].items():
            bits, text, _, *rest = _values(result, protocol, found)
            named = f"{Path(result['corpus']).name} {result['split']}"
            bits = f"{sign(protocol, 'estimator' not in result)} {bits}"
            table.add_row(named, protocol_name(protocol, found.get("process")), bits, text, *rest)
            if _hidden(found):
                table.caption, table.caption_justify = HIDDEN, "left"
    return table


def cloze_table(found: ClozeResult) -> Table:
    """Masked words restored by the model and by a 5-gram, and by only one of them."""
    title = f"{Path(found.corpus).name} {found.split}: {found.gaps:,} words masked, of a known number of tokens"
    table = Table("restored by", title=title, title_justify="left", header_style="bold")
    for name in ("words", "share"):
        table.add_column(name, justify="right")
    several, right, name = found.candidates > 1, found.restored, model_name(found.model.kind)
    rows = {"model": f"{name}, best of {found.candidates} by its bound" if several else f"{name}, one draw"}
    if several:
        rows |= {"first draw": f"{name}, one draw", "among candidates": f"{name}, any of {found.candidates}"}
    rows |= {"likeliest tokens": f"{name}, one draw at temperature 0.001"}
    rows |= {"5-gram": "5-gram (of train)", "5-gram, left only": "5-gram, from the left alone"}
    for key, label in rows.items():
        if key in right:
            share = plus_minus(right[key].share, right[key].error, 3)
            style = "" if key in ("model", "5-gram") else "dim"
            table.add_row(label, f"{right[key].restored:,}", share, style=style)
    if paired := found.paired:
        table.add_section()
        for key, label in PAIRED.items():
            table.add_row(label.format(name=name), f"{paired[key]:,}", f"{paired[key] / found.gaps:.3f}")
    return table


def _table(title: str, paper: Any) -> Table:
    table = Table(title=title, title_justify="left", header_style="bold")
    if paper:  # 80 columns have no room for six of them with lines between
        table.box, table.padding = None, (0, 1, 0, 0)
    table.add_column("model")
    for name in ("bits/char", "± text", "bits/byte", "ppl/token" if paper else "perplexity/token"):
        table.add_column(name, justify="right", no_wrap=True)
    if paper:
        table.add_column("paper", justify="right")
    return table


def model_name(kind: str) -> str:
    """A model's name by its kind: an objective and a graph, an objective of no graph, or the graph of SEDD alone."""
    objective, _, graph = kind.partition(" ")
    if not graph and objective not in KINDS:
        return SEDD
    return KINDS.get(objective, objective.replace("_", " "))


def _kind(result: dict[str, Any], protocol: str) -> str:
    """The model's kind and what its number is: ≤ an upper bound, ≈ an estimate, = exact."""
    name, exact = model_name(result.get("kind", "")), "estimator" not in result
    if exact and name == SEDD:
        name = Path(result["model"]).name
    return f"{name} {sign(protocol, exact)}"


def _values(result: dict[str, Any], protocol: str, found: dict[str, Any]) -> list[str]:
    between = found["between_documents_error"]
    cells = [
        plus_minus(found["bits_per_char"], found["bits_per_char_error"], 3),
        "-" if not between else spelled_error(between, 3),
        f"{found['bits_per_byte']:.3f}",
        plus_minus(found["perplexity"], found["perplexity_error"], 2),
    ]
    paper = result.get("paper")
    if paper and protocol == "sedd-paper":
        where = "" if paper["split"] == result["split"] else f" on {paper['split']}"
        cells.append(f"{paper['value']:.2f} {UNITS[paper['unit']]}{where}")
    return cells


def _hidden(found: dict[str, Any]) -> bool:
    """Whether the text is of several blocks, and what its choice adds is lost in the error of the draws."""
    return found["between_documents_error"] is None and found.get("blocks", 1) > 1
