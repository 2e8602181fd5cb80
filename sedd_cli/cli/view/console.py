"""The consoles of a command: names are never markup, control characters are spelled, a dead stream ends no work."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import IO, Any, cast

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text

from sedd_cli.cli.outcome import output
from sedd_cli.errors import printable


class _Stream:
    """Standard output or standard error, whose failures are noted once and end nothing."""

    def __init__(self, stderr: bool):
        self._stderr = stderr

    @property
    def _stream(self) -> Any:
        return sys.stderr if self._stderr else sys.stdout

    def write(self, text: str) -> int:
        try:
            self._stream.write(text)
        except (OSError, ValueError) as error:  # ValueError: it is closed
            output.fail(error, stderr=self._stderr)
        return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except (OSError, ValueError) as error:
            output.fail(error, stderr=self._stderr)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


class PlainConsole(Console):
    """A console for text of others: its strings are text, without markup, emoji codes and control characters."""

    def __init__(self, stderr: bool = False, soft_wrap: bool | None = None):
        stream = cast("IO[str]", _Stream(stderr))
        if soft_wrap is None:
            soft_wrap = not stream.isatty()
        super().__init__(file=stream, highlight=False, markup=False, emoji=False, soft_wrap=soft_wrap)
        #: Held while something is printed: bars set the lock of the thread that redraws them.
        self.redrawing: AbstractContextManager[object] = nullcontext()

    def print(self, *objects: Any, **options: Any) -> None:
        # a redraw between the drawing of a line and its output would move the cursor, and the line erase another
        with self.redrawing:
            super().print(*objects, **options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        for segment in super().render(renderable, options):
            plain = segment.text if segment.control else printable(segment.text)
            yield segment if plain == segment.text else Segment(plain, segment.style)

    def render_str(self, text: str, **options: Any) -> Text:
        return super().render_str(printable(text), **options)
