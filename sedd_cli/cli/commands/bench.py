"""`sedd bench`: the package timed beside straightforward (plain) implementations."""

from __future__ import annotations

import time
from collections.abc import Generator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from sedd_cli.cli import options as o
from sedd_cli.cli.checked import Checked
from sedd_cli.cli.outcome import output
from sedd_cli.cli.view.view import View
from sedd_cli.errors import WorkError

if TYPE_CHECKING:
    from sedd_cli.bench.compare import BenchResult
    from sedd_cli.recipe import Recipe
    from sedd_cli.system.events import Event

bench = typer.Typer(
    help="Time the package beside straightforward implementations, in turn in one process.",
    no_args_is_help=True,
    rich_markup_mode="rich",
)

Repeats = Annotated[int, typer.Option(metavar="INT", help="Timed runs of each path, after one warm-up.")]
RecipeName = Annotated[
    str, typer.Option("--recipe", metavar="RECIPE", help="A YAML file or shipped recipe; sets the network.")
]
Overrides = Annotated[
    list[str] | None, typer.Argument(help="Changes of recipe values, such as train.steps=500.", metavar="KEY=VALUE")
]
Batch = Annotated[int, typer.Option(metavar="INT", help="Sequences per batch.")]


def _recipe(source: str, overrides: list[str] | None) -> Recipe:
    from sedd_cli.recipe import load_recipe

    return load_recipe(source, overrides or [])


@bench.command(cls=Checked)
def train(
    overrides: Overrides = None,
    recipe: RecipeName = "gpt2_small",
    batch: Batch = 2,
    repeats: Repeats = 3,
    device: o.Device = "auto",
    json: o.Json = False,
    quiet: o.Quiet = False,
) -> None:
    """A training step against float32 autograd over all scores, and the time the recipe would take here.

    Example: sedd bench train --recipe recipes/gpt2_small.yaml
    """
    from sedd_cli.bench.model import ModelBenchOptions
    from sedd_cli.bench.train import bench_train

    options = ModelBenchOptions(repeats=repeats, recipe=_recipe(recipe, overrides), batch=batch, device=device)
    _show(View(json, quiet), bench_train(options))


@bench.command(cls=Checked)
def loss(
    overrides: Overrides = None,
    recipe: RecipeName = "gpt2_small",
    batch: Batch = 2,
    repeats: Repeats = 5,
    device: o.Device = "auto",
    json: o.Json = False,
    quiet: o.Quiet = False,
) -> None:
    """Head and loss with gradients: the fused form against scores of all positions.

    Example: sedd bench loss --recipe gpt2_small_uniform
    """
    from sedd_cli.bench.loss import bench_loss
    from sedd_cli.bench.model import ModelBenchOptions

    options = ModelBenchOptions(repeats=repeats, recipe=_recipe(recipe, overrides), batch=batch, device=device)
    _show(View(json, quiet), bench_loss(options))


@bench.command(cls=Checked)
def sample(
    overrides: Overrides = None,
    recipe: RecipeName = "gpt2_small",
    batch: Batch = 1,
    steps: Annotated[int, typer.Option(metavar="INT", help="Denoising steps.")] = 1024,
    normalized: Annotated[bool, typer.Option("--normalized", help="Set the normaliser to 1.")] = False,
    repeats: Repeats = 1,
    device: o.Device = "auto",
    json: o.Json = False,
    quiet: o.Quiet = False,
) -> None:
    """Sampling beside the published analytic sampler: all scores, transitions and draws in float32.

    Example: sedd bench sample --steps 128
    """
    from sedd_cli.bench.sample import SampleBenchOptions, bench_sample

    options = SampleBenchOptions(
        repeats=repeats,
        recipe=_recipe(recipe, overrides),
        batch=batch,
        device=device,
        steps=steps,
        normalized=normalized,
    )
    _show(View(json, quiet), bench_sample(options))


@bench.command(cls=Checked)
def prepare(
    corpus: Annotated[
        str, typer.Argument(metavar="CORPUS", help="A known corpus, or a file or folder of text.")
    ] = "pydocs",
    tokenizer: Annotated[str, typer.Option(metavar="NAME", help="A tokenizer that needs no training.")] = "gpt2",
    megabytes: Annotated[
        float, typer.Option(metavar="FLOAT", help="Text to encode; a shorter corpus is repeated.")
    ] = 64.0,
    workers: Annotated[int, typer.Option(metavar="INT", help="Our threads, and processes of datasets.map.")] = 2,
    repeats: Repeats = 3,
    json: o.Json = False,
    quiet: o.Quiet = False,
) -> None:
    """Tokenisation: `sedd prepare` against datasets.map over single documents.

    Example: sedd bench prepare my.txt --megabytes 64
    """
    from sedd_cli.bench.prepare import PrepareBenchOptions, bench_prepare

    options = PrepareBenchOptions(repeats, corpus, tokenizer, megabytes, workers)
    _show(View(json, quiet), bench_prepare(options))


@bench.command(cls=Checked)
def loader(
    length: Annotated[int, typer.Option(metavar="INT", help="Tokens per block.")] = 1024,
    batch: Annotated[int, typer.Option(metavar="INT", help="Blocks per batch.")] = 64,
    repeats: Repeats = 9,
    json: o.Json = False,
    quiet: o.Quiet = False,
) -> None:
    """Loading: batches from a warm memory map against a loop over blocks.

    Example: sedd bench loader --length 1024 --batch 64
    """
    from sedd_cli.bench.loader import LoaderBenchOptions, bench_loader

    _show(View(json, quiet), bench_loader(LoaderBenchOptions(repeats=repeats, length=length, batch=batch)))


@bench.command(cls=Checked)
def report(
    overrides: Overrides = None,
    recipe: RecipeName = "gpt2_small",
    larger: Annotated[str, typer.Option(metavar="RECIPE", help="A second recipe, whose training is measured.")] = (
        "gpt2_medium"
    ),
    minutes: Annotated[float, typer.Option(metavar="FLOAT", help="The report ends within this time.")] = 8.0,
    out: Annotated[
        Path,
        typer.Option(metavar="FILE", parser=o.file_name, help="The JSON document; the Markdown is written beside it."),
    ] = Path("report.json"),
    only: Annotated[
        str | None, typer.Option(metavar="NAME[,NAME]", help="Some of the measurements, such as training,checks.")
    ] = None,
    device: o.Device = "auto",
    json: o.Json = False,
    quiet: o.Quiet = False,
) -> None:
    """Measure everything that matters on this machine within some minutes, most important first.

    Example: sedd bench report --minutes 8 --out report.json
    """
    began = time.monotonic()
    from sedd_cli.bench.report.markdown import COLUMNS, row, tables
    from sedd_cli.bench.report.outcome import ReportOptions
    from sedd_cli.bench.report.run import bench_report
    from sedd_cli.system.outputs import check_outputs

    options = ReportOptions(
        recipe=_recipe(recipe, overrides),
        larger=_recipe(larger, overrides),
        minutes=minutes,
        out=out,
        device=device,
        only=tuple(name.strip() for name in (only or "").split(",") if name.strip()),
        began=began,
    )
    check_outputs({"--out": out, "--out (Markdown)": out.with_suffix(".md")}, {"--recipe": [recipe, larger]})
    view = View(json, quiet)
    where = f"interrupted: the report so far is in {out} and {out.with_suffix('.md')}"
    document = view.run(bench_report(options), interrupted=where).to_dict()
    output.stored = True
    for name, figures in tables(document).items():
        table = Table(*COLUMNS, title=name, title_justify="left")
        for figure in figures:
            table.add_row(*map(escape, row(figure)))
        view.result(table)
    error = _failure(document)
    view.document(document, error)
    if error:
        raise error


def _failure(document: dict[str, Any]) -> WorkError | None:
    """The error to end with: a check that failed, or nothing measured."""
    if document["checks_failed"]:
        return WorkError(f"{document['checks_failed']} of {document['checks']} checks failed")
    reasons = [f"{m['name']}: {m['reason']}" for m in document["measurements"] if not m["figures"]]
    return WorkError(f"nothing was measured ({reasons[0]})") if len(reasons) == len(document["measurements"]) else None


#: Columns of the table: heading, key of a path's metrics, format.
COLUMNS = (
    ("tokens/s", "tokens_per_second", "{:,.0f}"),
    ("extra MiB", "extra_mib", "{:,.0f}"),
    ("beyond gradients", "beyond_gradients_mib", "{:,.0f}"),
    ("TFLOP/s", "flops", "{:.2f}"),
    ("of peak", "share_of_measured_peak", "{:.0%}"),
    ("MFU", "mfu", "{:.0%}"),
    ("evals", "evaluations", "{:,}"),
    ("s/eval", "seconds_per_evaluation", "{:.3f}"),
    ("seconds", "seconds", "{:,.1f}"),
)


def _show(view: View, job: Generator[Event, None, BenchResult]) -> None:
    result = view.run(job).to_dict()
    table = Table(title=f"bench {result['bench']}: {result['tokens']:,} tokens", title_justify="left")
    table.add_column("path")
    columns = [c for c in COLUMNS if any(c[1] in found for found in result["paths"].values())]
    for heading, _, _ in columns:
        table.add_column(heading, justify="right")
    for path, found in result["paths"].items():
        table.add_row(path, *(_cell(found.get(key), key, form) for _, key, form in columns))
    table.caption, table.caption_justify = _caption(result), "left"
    view.result(table)
    view.document(result)


def _cell(value: Any, key: str, form: str) -> str:
    return "" if value is None else form.format(value / 1e12 if key == "flops" else value)


def _caption(result: dict[str, Any]) -> str:
    """What was measured and how, a line each."""
    runs = max(len(found["runs"]) for found in result["paths"].values())
    lines = [f"medians of {runs} runs" if runs > 1 else "one run of each", f"ratio {result['ratio']:.2f}"]
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
    if "bf16_matmul_peak" in result:
        lines.append(f"bf16 peak measured here {result['bf16_matmul_peak'] / 1e12:.2f} TFLOP/s")
    if "recipe_hours_here" in result:
        lines.append(f"all of the recipe's steps at this rate: {_duration(result['recipe_hours_here'])}")
    return "\n".join(lines)


def _duration(hours: float) -> str:
    if hours < 2:
        return f"{hours * 60:.0f} minutes"
    return f"{hours:.0f} hours" if hours < 100 else f"{hours / 24:,.0f} days"
