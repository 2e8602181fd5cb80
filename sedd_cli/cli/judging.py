"""`sedd eval --samples` and `sedd eval --sweep`, and the judgement under `sedd sample --judge`."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.table import Table

from sedd_cli.cli.choose import choose_any
from sedd_cli.cli.view.results import plus_minus
from sedd_cli.cli.view.view import View
from sedd_cli.errors import RequestError

if TYPE_CHECKING:
    from sedd_cli.evaluation.judge import Samples
    from sedd_cli.evaluation.scorers.scorer import Scorer
    from sedd_cli.evaluation.sweep import SweepOptions


#: What is said after Ctrl-C.
RESUME = "interrupted: samples and points that are finished are kept, the same command goes on"


def judge_file(
    view: View, path: Path, judge: str | None, self_bleu: bool, tokenizer: str | None, device: str, out: Path | None
) -> None:
    """Judge the samples of a file and show what was found."""
    from sedd_cli.data.tokenizers import load_tokenizer
    from sedd_cli.evaluation.judge import Samples
    from sedd_cli.system.files import write_whole
    from sedd_cli.system.outputs import check_outputs

    if judge is None:
        raise RequestError(
            "--samples needs --judge: a causal language model such as gpt2-large, or a run of objective=autoregressive"
        )
    alone("--samples")
    check_outputs({"--out": out}, {"--samples": path, "--judge": judge, "--tokenizer": tokenizer})
    samples = Samples.read(path, load_tokenizer(tokenizer) if tokenizer else None)
    found = {"file": str(path), **judged(view, samples, load_judge(view, judge, device), self_bleu)}
    if out is not None:
        write_whole(out, json.dumps(found, indent=1) + "\n")
        view.say(f"wrote {out}", "dim")
    view.document(found)


def load_judge(view: View, judge: str, device: str) -> Scorer:
    """The judge, said in one line."""
    from sedd_cli.evaluation.scorers.scorer import load_scorer

    reader = load_scorer(judge, device)
    view.say(f"judge {reader.describe()}", "dim")
    return reader


def judged(view: View, samples: Samples, reader: Scorer, self_bleu: bool) -> dict[str, Any]:
    """What a judge finds, shown."""
    from sedd_cli.evaluation.judge import judge
    from sedd_cli.system.events import Finished

    def events():
        yield Finished((yield from judge(reader, samples, self_bleu)).to_dict())

    found = view.follow(events())[-1].result
    view.result(_one(found))
    return found


def alone(option: str) -> None:
    """RequestError under torchrun: processes would do the same work, and write the same files."""
    if os.environ.get("WORLD_SIZE", "1") != "1":
        raise RequestError(f"{option} works on one process: start it without torchrun")


def run_sweep(
    view: View, options: Callable[[], SweepOptions], judge: str | None, model: str | None, tokenizer: str | None,
    device: str, precision: str,
) -> None:  # fmt: skip
    """Sample and judge at each number of steps; a table, JSON and a figure."""
    from sedd_cli.evaluation.sweep import holds_sweep, plot, sweep
    from sedd_cli.system.events import Finished
    from sedd_cli.system.outputs import check_folder

    asked = options()
    if judge is None:
        raise RequestError(
            "--sweep needs --judge: a causal language model such as gpt2-large, or a run of objective=autoregressive"
        )
    alone("--sweep")
    check_folder("--out", asked.folder, holds_sweep, "a folder of a sweep")
    # whether bf16 moves a bound can be measured on the way, whether it moves samples cannot
    chosen = choose_any(view, model, device, "fp32" if precision == "auto" else precision, tokenizer)
    if chosen.exact:
        raise RequestError(f"a sweep needs a diffusion model: {chosen.source} goes from left to right and has no steps")
    reader = load_judge(view, judge, device)
    found = [e.result for e in view.follow(sweep(chosen, reader, asked), RESUME) if isinstance(e, Finished)][-1]
    view.result(_points(found))
    stored, png = asked.folder / "sweep.json", asked.folder / "sweep.png"
    try:
        plot(found, png)
        found["png"] = str(png)
        view.say(f"wrote {stored} and {png}", "dim")
    except RequestError as error:  # everything else is there
        view.say(f"wrote {stored}; {error}", "yellow")
    view.document(found)


def _one(found: dict[str, Any]) -> Table:
    table = Table(
        title=f"{found['samples']} samples, {found['tokens']:,} tokens predicted by {found['judge']}",
        title_justify="left",
        show_header=False,
    )
    table.add_column(style="dim")
    table.add_column(justify="right")
    for name, key in (("perplexity per sequence (SEDD)", "per_sequence"), ("perplexity pooled (MDLM)", "pooled")):
        table.add_row(name, plus_minus(found[key]["perplexity"], found[key]["error"], 2))
    table.add_row("unigram entropy, nats", _entropy(found))
    table.add_row("distinct-1, -2, -3", "  ".join(_share(found["distinct"][n]) for n in "123"))
    if "self_bleu" in found:
        table.add_row("self-BLEU-4", _share(found["self_bleu"]))
    table.add_row("network evaluations a sample", "unknown" if found["nfe"] is None else f"{found['nfe']:.1f}")
    table.add_row("draws", found["draws"] or "unknown")
    return table


def _points(found: dict[str, Any]) -> Table:
    table = Table(title=f"{found['model']} judged by {found['judge']}", title_justify="left", header_style="bold")
    table.add_column("sampler")
    for name in ("steps", "NFE", "per sequence", "pooled", "entropy", "dist-2"):
        table.add_column(name, justify="right")
    for p in found["points"]:
        table.add_row(
            p["sampler"],
            f"{p['steps']:,}",
            f"{p['nfe']:.1f}",
            *(plus_minus(p[key]["perplexity"], p[key]["error"], 1) for key in ("per_sequence", "pooled")),
            _share(p["unigram_entropy"]["nats"]),
            _share(p["distinct"]["2"]),
        )
    return table


def _entropy(found: dict[str, Any]) -> str:
    entropy = found["unigram_entropy"]
    return "-" if entropy["nats"] is None else plus_minus(entropy["nats"], entropy["error"], 3)


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
