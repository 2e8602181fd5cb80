"""What no command accepts, whatever its options mean: empty values, and numbers that are not finite."""

from __future__ import annotations

import math
from typing import Any

import typer
import typer.core

#: The options whose value is a text that may be empty.
TEXTS = {"template", "prefix", "suffix", "prompt"}


class Checked(typer.core.TyperCommand):
    """A command that refuses empty values and numbers that are not finite, naming the option."""

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
        """Run the command, unless a number is NaN or infinite."""
        for param in self.params:
            value = ctx.params.get(param.name or "")
            if isinstance(value, float) and not math.isfinite(value):
                raise typer.BadParameter(f"{param.opts[0]} takes a finite number, found {value}", ctx)
        return super().invoke(ctx)
