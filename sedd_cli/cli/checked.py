"""What every command does before its work: import parts of the user's own, refuse odd values, note inputs."""

from __future__ import annotations

import math
import sys
from typing import Any

import typer
import typer.core

from sedd_cli.cli.importing import import_offered, name_parts
from sedd_cli.cli.inputs import note_inputs

#: The options whose value is a text that may be empty.
TEXTS = {"template", "prefix", "suffix", "prompt"}
#: The module that imports parts; while nothing has imported it, there are none.
OUTSIDE = "sedd_cli.recipe.outside"


class Checked(typer.core.TyperCommand):
    """A command that imports parts from outside, and refuses empty values and numbers that are not finite."""

    def format_help(self, ctx: typer.Context, formatter: Any) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """The help; it names the parts from outside."""
        import_offered()
        if OUTSIDE in sys.modules:
            name_parts(self.params)
        super().format_help(ctx, formatter)

    def parse_args(self, ctx: typer.Context, args: list[str]) -> list[str]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Parse the words; an empty one is refused, since a path, or a name that is `None` by default, hides it."""
        free = {flag for param in self.params if param.name in TEXTS for flag in param.opts}
        for before, word in zip(["", *args], args, strict=False):
            flag, equals, value = word.partition("=")
            if before in free or flag in free:
                continue
            if word == "":
                raise typer.BadParameter(f"{before if before.startswith('-') else 'a word'} is empty", ctx)
            if flag.startswith("--") and equals and not value:
                raise typer.BadParameter(f"{flag} is empty", ctx)
        return super().parse_args(ctx, args)

    def invoke(self, ctx: typer.Context) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Import the parts that installed packages offer, and run the command unless a number is NaN or infinite."""
        import_offered()
        note_inputs(self.params, ctx.params)
        for param in self.params:
            value = ctx.params.get(param.name or "")
            if isinstance(value, float) and not math.isfinite(value):
                raise typer.BadParameter(f"{param.opts[0]} takes a finite number, found {value}", ctx)
        return super().invoke(ctx)
