"""The command line: composes one command a file."""

from __future__ import annotations

from typing import Annotated

import typer

from sedd_cli import __version__
from sedd_cli.cli.bench import bench
from sedd_cli.cli.doctor import doctor
from sedd_cli.cli.eval import evaluate
from sedd_cli.cli.export import export
from sedd_cli.cli.guide import guide
from sedd_cli.cli.infill import infill
from sedd_cli.cli.mauve import mauve
from sedd_cli.cli.prepare import prepare
from sedd_cli.cli.sample import sample
from sedd_cli.cli.table import table
from sedd_cli.cli.train import train

app = typer.Typer(
    name="sedd",
    help="Score entropy discrete diffusion language models: prepare, train, evaluate, sample, infill, compare.",
    epilog="Any command takes --debug to show the traceback behind an error.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for name, command in {
    "prepare": prepare,
    "train": train,
    "eval": evaluate,
    "sample": sample,
    "infill": infill,
    "mauve": mauve,
    "table": table,
    "export": export,
    "doctor": doctor,
    "guide": guide,
}.items():
    app.command(name)(command)
app.add_typer(bench, name="bench")


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"sedd {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print it.")] = False,
) -> None:
    """Options that stand before the command."""
