"""The command line: one command a file, grouped in the panels of the help."""

from __future__ import annotations

import inspect as introspection
import os
import traceback
from contextlib import suppress
from typing import Annotated

import typer
import typer.core
import typer.main

from sedd_cli import __version__
from sedd_cli.cli.checked import Checked
from sedd_cli.cli.commands.bench import bench
from sedd_cli.cli.commands.cloze import cloze
from sedd_cli.cli.commands.doctor import doctor
from sedd_cli.cli.commands.eval import evaluate
from sedd_cli.cli.commands.export import export
from sedd_cli.cli.commands.guide import guide
from sedd_cli.cli.commands.infill import infill
from sedd_cli.cli.commands.inspect import inspect
from sedd_cli.cli.commands.prepare import prepare
from sedd_cli.cli.commands.quality.judge import judge
from sedd_cli.cli.commands.quality.mauve import mauve
from sedd_cli.cli.commands.quality.sweep import sweep
from sedd_cli.cli.commands.recipes import recipes
from sedd_cli.cli.commands.runs.compare import compare
from sedd_cli.cli.commands.runs.runs import runs
from sedd_cli.cli.commands.runs.status import status
from sedd_cli.cli.commands.sample import sample
from sedd_cli.cli.commands.table import table
from sedd_cli.cli.commands.train import train
from sedd_cli.cli.importing import importing
from sedd_cli.cli.outcome import (
    INTERRUPTED,
    exit_code,
    failure,
    is_interrupt,
    is_usage_error,
    main_process,
    one_line,
    output,
    say_error,
)  # fmt: skip
from sedd_cli.cli.renamed import current_spelling
from sedd_cli.cli.repeated import refuse_repeated
from sedd_cli.cli.unknown_options import as_override, in_other_words
from sedd_cli.errors import RequestError, WorkError

#: The panels of the help, in order, with their commands.
PANELS = {
    "Data and training": {
        "prepare": prepare,
        "recipes": recipes,
        "train": train,
        "status": status,
        "runs": runs,
        "compare": compare,
    },
    "Using a model": {"sample": sample, "infill": infill, "export": export, "inspect": inspect},
    "Measuring": {"eval": evaluate, "judge": judge, "sweep": sweep, "cloze": cloze, "mauve": mauve, "bench": bench},
    "The paper": {"table": table},
    "This machine": {"doctor": doctor, "guide": guide},
}


class Commands(typer.core.TyperGroup):
    """Lists the commands in the order of the panels; typer lists groups such as `bench` last."""

    def list_commands(self, ctx: typer.Context) -> list[str]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """The names of the commands."""
        return [name for commands in PANELS.values() for name in commands]


app = typer.Typer(
    cls=Commands,
    name="sedd",
    help="Score entropy discrete diffusion language models: prepare, train, evaluate, sample, infill, compare.",
    epilog="Every command takes --debug, which shows the traceback of an error, and --import FILE.py, which adds "
    "graphs, schedules, objectives and samplers of your own (sedd guide extending).",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _paragraphs(text: str) -> str:
    """A docstring with one line a paragraph; typer keeps the line breaks inside a paragraph."""
    return "\n\n".join(" ".join(part.split()) for part in introspection.cleandoc(text).split("\n\n"))


for _panel, _commands in PANELS.items():
    for _name, _command in _commands.items():
        if isinstance(_command, typer.Typer):
            for _info in filter(None, (*_command.registered_commands, _command.registered_callback)):
                _info.callback = importing(_info.callback) if _info.callback else None
            app.add_typer(_command, name=_name, rich_help_panel=_panel)
        else:
            _help = _paragraphs(_command.__doc__ or "")
            app.command(_name, cls=Checked, help=_help, rich_help_panel=_panel)(importing(_command))


def _version(wanted: bool) -> None:
    if wanted:
        output.write(f"sedd {__version__}\n")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Options before the command."""


def run(words: list[str], debug: bool = False) -> int:
    """Run one command and return its exit code.

    Errors become one line on standard error, and with `--json` the document {"error", "exit"} on standard output
    unless the command has written its own. `debug` shows the traceback instead of the line.
    """
    output.reset()
    output.debug = debug
    as_json, quiet = "--json" in words, "--quiet" in words or "-q" in words

    def notify(line: str) -> None:
        if main_process() and not quiet:
            say_error(f"note: {line}")

    try:
        _check_surroundings()
        # the exit code of a command that ends early, such as 130 after Ctrl-C; else None
        command, current = typer.main.get_command(app), current_spelling(words, notify)
        refuse_repeated(command, current)
        ended = command.main(current, "sedd", standalone_mode=False)
        if ended == INTERRUPTED:
            raise KeyboardInterrupt
        output.close()
        return ended if isinstance(ended, int) else 0
    except (SystemExit, GeneratorExit):
        raise
    except BaseException as error:  # a panic of a library in Rust is no Exception
        if is_interrupt(error):
            with suppress(KeyboardInterrupt):  # a second one while it is looked up what is kept
                said = output.interrupted if isinstance(output.interrupted, str) else output.interrupted()
                if said and main_process():
                    say_error(said)
            return _failed(KeyboardInterrupt(), as_json)
        explained = output.explained(error)
        if explained is not error and output.unread:
            return 0
        error = in_other_words(as_override(explained, words), typer.main.get_command(app))
        code = _failed(error, as_json)
        if debug and not is_usage_error(error):
            traceback.print_exception(error)
        else:
            _show(error)
        return code


def _check_surroundings() -> None:
    """RequestError in a folder that was deleted, where libraries end the process."""
    try:
        os.getcwd()
    except OSError as error:
        raise RequestError(f"the current folder cannot be read ({error.strerror}): change to another") from None


def _failed(error: BaseException, as_json: bool) -> int:
    """Write the document of a failed command where none is there; returns the exit code."""
    if as_json and not output.document:
        output.json(output.result | failure(error))
    return exit_code(error)


def _show(error: BaseException) -> None:
    """The error on standard error. Of many processes, the first reports requests and work that fail on all."""
    if is_usage_error(error):
        if main_process():
            from typer import rich_utils

            rich_utils.rich_format_error(error)  # type: ignore[arg-type]
    elif main_process():
        say_error(f"error: {one_line(error)}")
    elif not isinstance(error, RequestError | WorkError) or error.own:
        say_error(f"error (process {os.environ['RANK']}): {one_line(error)}")
