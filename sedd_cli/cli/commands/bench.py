"""`sedd bench`: the package timed beside straightforward (plain) implementations."""

from __future__ import annotations

import time
from collections.abc import Generator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from sedd_cli.cli import options as o
from sedd_cli.cli.checked import Checked
from sedd_cli.cli.next_commands import command_line
from sedd_cli.cli.outcome import output
from sedd_cli.cli.view.view import View
from sedd_cli.errors import RequestError, WorkError, shell_word, shortened
from sedd_cli.system.software import recorded

if TYPE_CHECKING:
    from sedd_cli.bench.compare import BenchResult
    from sedd_cli.bench.report.outcome import Report
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
    from sedd_cli.recipe import load_recipe, shipped

    for word in overrides or []:
        if "=" not in word and (word in shipped() or Path(word).suffix == ".yaml"):
            raise RequestError(f"{shortened(word)} is a recipe, not a change of one: write --recipe {shell_word(word)}")
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
    """A training step against autograd over all scores, and the time the recipe would take here.

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
    """Sampling beside the published analytic sampler: all scores, transitions and draws.

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
    from sedd_cli.bench.report.run import OVER, bench_report
    from sedd_cli.cli.inputs import check_written, inputs_of

    options = ReportOptions(
        recipe=_recipe(recipe, overrides),
        larger=_recipe(larger, overrides),
        minutes=minutes,
        out=out,
        device=device,
        only=tuple(name.strip() for name in (only or "").split(",") if name.strip()),
        began=began,
    )
    reads = {f"{key} of {name}": of for name, r in (("--recipe", options.recipe), ("--larger", options.larger))
             for key, of in inputs_of(r).items()}  # fmt: skip
    check_written({"--out": out, "--out (Markdown)": out.with_suffix(".md")}, reads)
    view = View(json, quiet)
    where = f"interrupted: the report so far is in {out} and {out.with_suffix('.md')}"

    def stopped(report: Report) -> None:
        view.document(recorded(report.to_dict()), WorkError(OVER.format(out)))

    document = view.run(bench_report(options, stopped), interrupted=where).to_dict()
    output.stored = True
    for name, figures in tables(document).items():
        table = Table(*COLUMNS, title=name, title_justify="left")
        for figure in figures:
            table.add_row(*row(figure))
        view.result(table)
    error = _failure(document)
    view.document(recorded(document), error)
    if error:
        raise error


def _failure(document: dict[str, Any]) -> WorkError | None:
    """The error to end with: a check that failed, or nothing measured."""
    if document["checks_failed"]:
        return WorkError(f"{document['checks_failed']} of {document['checks']} checks failed")
    reasons = [f"{m['name']}: {m['reason']}" for m in document["measurements"] if not m["figures"]]
    return WorkError(f"nothing was measured ({reasons[0]})") if len(reasons) == len(document["measurements"]) else None


@bench.command(cls=Checked)
def speedrun(
    overrides: Overrides = None,
    recipe: RecipeName = "quickstart",
    minutes: Annotated[float, typer.Option(metavar="FLOAT", help="For everything, samples included.")] = 4.0,
    run_dir: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Default: runs/speedrun-NAME; a new one beside it if it exists."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", parser=o.file_name, help="Write the table as JSON.")
    ] = None,
    device: o.Device = "auto",
    json: o.Json = False,
    quiet: o.Quiet = False,
) -> None:
    """How good a recipe's model is against time: validation on the way, the bound on the test split at the end.

    Example: sedd bench speedrun --recipe quickstart --minutes 4
    """
    began = time.monotonic()
    from sedd_cli.bench.speedrun import SpeedrunOptions, bench_speedrun
    from sedd_cli.checkpoints.run_directory import RunDir
    from sedd_cli.cli.inputs import check_written, inputs_of
    from sedd_cli.cli.view.bench import speedrun_table

    resolved = _recipe(recipe, overrides)
    run = RunDir(run_dir or Path("runs") / f"speedrun-{resolved.name}").fresh().path
    options = SpeedrunOptions(recipe=resolved, run=run, minutes=minutes, device=device, began=began)
    check_written({"--out": out}, {**inputs_of(resolved), "--run-dir": run})
    view = View(json, quiet)
    again = command_line(["train", run])
    kept = f"interrupted: what was trained is kept, `{again}` goes on with it; the same command begins anew"
    document = view.run(bench_speedrun(options), interrupted=kept).to_dict()
    view.result(speedrun_table(document))
    view.write(recorded(document), out)
    error = None if document["within"] else _late(document)
    view.document(recorded(document), error)
    if error:
        raise error


def _late(document: dict[str, Any]) -> WorkError:
    """The error of a speedrun that took too long."""
    step, steps, minutes = document["step"], document["steps"], document["minutes"]
    if step < steps:
        again = command_line(["train", document["run"]])
        return WorkError(f"{minutes:g} minutes were over at step {step:,} of {steps:,}: {again} goes on with it")
    return WorkError(f"it took {document['seconds']:,.0f} s, which is more than {minutes:g} minutes")


def _show(view: View, job: Generator[Event, None, BenchResult]) -> None:
    from sedd_cli.cli.view.bench import bench_table

    result = view.run(job).to_dict()
    view.result(bench_table(result))
    view.document(recorded(result))
