"""`sedd bench`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

import typer
from rich.table import Table

from sedd_cli.cli import options as o
from sedd_cli.cli.view import View

bench = typer.Typer(
    help="Time fast paths against plain ones, in turn in one process.", no_args_is_help=True, rich_markup_mode="rich"
)

Repeats = Annotated[int, typer.Option(help="Timed runs of each path, after one that is not counted.")]


@bench.command()
def prepare(
    corpus: Annotated[str, typer.Argument(help="A known corpus, or a file or folder of text.")] = "pydocs",
    tokenizer: Annotated[str, typer.Option(help="One that needs no training.")] = "gpt2",
    megabytes: Annotated[float, typer.Option(help="Text to encode; a shorter corpus is read again.")] = 64.0,
    workers: Annotated[int, typer.Option(help="Threads of ours, processes of datasets.map.")] = 2,
    repeats: Repeats = 3,
    json: o.Json = False,
    quiet: o.Quiet = False,
) -> None:
    """Tokenising: prepare against datasets.map around one document at a time.

    Example: sedd bench prepare my.txt --megabytes 64
    """
    from sedd_cli.runs.bench import PrepareBench, bench_prepare

    options = PrepareBench(repeats, corpus, tokenizer, megabytes, workers)
    _show(View(json, quiet), bench_prepare(options))


@bench.command()
def loader(
    length: Annotated[int, typer.Option(help="Tokens a block.")] = 1024,
    batch: Annotated[int, typer.Option(help="Blocks a batch.")] = 64,
    repeats: Repeats = 9,
    json: o.Json = False,
    quiet: o.Quiet = False,
) -> None:
    """Loading: batches from a warm memory map against a loop over blocks.

    Example: sedd bench loader --length 1024 --batch 64
    """
    from sedd_cli.runs.bench import LoaderBench, bench_loader

    _show(View(json, quiet), bench_loader(LoaderBench(repeats=repeats, length=length, batch=batch)))


def _show(view: View, events: Iterator) -> None:
    result = view.follow(events)[-1].result
    table = Table(title=f"bench {result['bench']}: {result['tokens']:,} tokens", title_justify="left")
    for name, justify in (("path", "left"), ("tokens/s, median", "right"), ("range", "right"), ("peak MiB", "right")):
        table.add_column(name, justify=justify)
    for path, found in result["paths"].items():
        runs, peak = found["runs"], found["peak_mib"]
        spread = f"{min(runs) / 1e6:.2f}–{max(runs) / 1e6:.2f} M"
        table.add_row(path, f"{found['tokens_per_second'] / 1e6:.2f} M", spread, f"{peak:.0f}" if peak else "unknown")
    table.caption, table.caption_justify = f"ratio {result['ratio']:.2f}", "left"
    view.table(table)
    view.document(result)
