"""`sedd recipes`."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.table import Table

from sedd_cli.cli import options as o
from sedd_cli.cli.checked import Checked
from sedd_cli.cli.outcome import output
from sedd_cli.cli.view.view import View
from sedd_cli.errors import RequestError, printable

recipes = typer.Typer(help="List the recipes that come with the package, or print one.", rich_markup_mode="rich")


@recipes.callback(invoke_without_command=True)
def listing(context: typer.Context, json: o.Json = False, quiet: o.Quiet = False) -> None:
    """List the recipes that come with the package; `sedd recipes show NAME` prints one.

    Example: sedd recipes show quickstart
    """
    if context.invoked_subcommand is not None:
        if json or quiet:
            raise RequestError("options go behind the words: sedd recipes show NAME --json")
        return
    from sedd_cli.recipe import load_recipe, shipped

    view, table = View(json, quiet), Table(header_style="bold")
    for name in ("recipe", "graph", "text", "tokens a step", "steps"):
        table.add_column(name, justify="right" if "step" in name else "left")
    found = {name: load_recipe(name) for name in shipped()}
    for name, recipe in found.items():
        step = f"{recipe.train.batch} × {recipe.model.length}"
        table.add_row(name, recipe.graph.name, recipe.data.corpus, step, f"{recipe.train.steps:,}")
    view.result(table)
    view.say("Try next:\n  sedd recipes show quickstart\n  sedd train quickstart --dry-run", "cyan")
    view.document({name: recipe.to_data() for name, recipe in found.items()})


@recipes.command("show", cls=Checked)
def show(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A recipe that `sedd recipes` lists, or a YAML file.")],
    json: o.Json = False,
    quiet: o.Quiet = False,
) -> None:
    """Print a recipe as it is written; `sedd train NAME --dry-run` prints it with all defaults.

    Example: sedd recipes show quickstart > mine.yaml
    """
    from sedd_cli.recipe import load_recipe
    from sedd_cli.recipe.load import recipe_file

    recipe, view = load_recipe(name), View(json, quiet)
    if not json:
        text = recipe_file(name).read_text(encoding="utf-8")
        output.write(printable(text) if view.console.is_terminal else text)
    view.document(recipe.to_data())
