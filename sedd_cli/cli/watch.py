"""`--watch`: texts as they resolve, below the bar; nothing where the output is no terminal."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from rich.console import Group
from rich.text import Text

from sedd_cli.cli.pieces import Pieces
from sedd_cli.cli.view import View
from sedd_cli.runs.events import Event, Frame, Seen
from sedd_cli.runs.model import Model

#: What stands for a token that is not there yet.
UNRESOLVED = "░"
#: Lines around the text: the bar, the figures, an empty one.
AROUND = 4


class Watcher:
    """Draws frames on a view; the texts of as many sequences as the terminal has room for."""

    def __init__(self, view: View, model: Model):
        self._view, self._pieces = view, Pieces(model)
        self._before: dict[int, list[int]] = {}

    def watch(self, events: Iterable[Event]) -> Iterator[Event]:
        """The events, frames drawn."""
        for event in events:
            if isinstance(event, Frame):
                self._view.picture(self._frame(event))
            yield event
        self._view.picture("")

    def _frame(self, frame: Frame) -> Group:
        console = self._view.console
        room, shown = max(3, console.height - AROUND), []
        for place, seen in enumerate(frame.sequences):
            text, newest = self._text(place, seen, frame.step)
            lines = text.wrap(console, console.width, no_wrap=False)
            if shown and len(lines) + 1 > room:
                break
            # of a text longer than the terminal, the part in which something happens
            row = _line_of(lines, newest)
            first = min(max(0, row - room // 2), max(0, len(lines) - room))
            shown += [*lines[first : first + room], Text("")]
            room -= len(lines) + 1
            if room < 1:
                break
        self._before = {place: seen.x for place, seen in enumerate(frame.sequences)}
        return Group(*shown, self._figures(frame))

    def _text(self, place: int, seen: Seen, step: int) -> tuple[Text, int]:
        """The text of a sequence, and the character at which it has changed last."""
        before, text, newest = self._before.get(place) if step > 1 else None, Text(), 0
        for i, piece in enumerate(self._pieces(seen.x)):
            if piece is None:
                text.append(UNRESOLVED, "dim")
            elif seen.asked[i] is not None:
                text.append(piece, "cyan")
            elif before is None or before[i] != seen.x[i]:
                newest = len(text)
                text.append(piece, "bold black on green")
            else:
                text.append(piece)
        return text, newest

    def _figures(self, frame: Frame) -> Text:
        free = [[i for i, token in enumerate(s.asked) if token is None] for s in frame.sequences]
        there = sum(s.x[i] < self._pieces.tokens for s, gaps in zip(frame.sequences, free, strict=True) for i in gaps)
        spent = max(s.evaluations for s in frame.sequences)
        rate = there / max(frame.seconds, 1e-9)
        parts = [f"step {frame.step:,} of {frame.steps:,}", f"{spent:,} evaluations"]
        parts += [f"{there:,} of {sum(map(len, free)):,} tokens", f"{rate:,.0f} tokens/s"]
        return Text(" · ".join(parts), "dim")


def _line_of(lines: Iterable[Text], character: int) -> int:
    """The line in which a character of the text stands; wrapping may have dropped a space at a line's end."""
    at = 0
    for number, line in enumerate(lines):
        at += len(line.plain) + 1
        if character < at:
            return number
    return 0
