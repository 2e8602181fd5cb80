"""`--watch`: texts during denoising, below the one progress bar, which counts steps, in a terminal only."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterable

from rich.console import Group
from rich.text import Text

from sedd_cli.checkpoints.loaded_model import LoadedModel
from sedd_cli.cli.view.denoising.pieces import Pieces
from sedd_cli.cli.view.view import View
from sedd_cli.system.events import Event, Frame, Progress, Result, Seen, map_events, observe

#: Shown for a masked token.
UNRESOLVED = "░"
#: Seconds for which a new token is highlighted, and between two drawings.
FRESH, EVERY = 0.4, 0.04
#: Lines around the text: the bar, the metrics, an empty one.
AROUND = 5


class Watcher:
    """Draws frames on a view, with as many sequences as the terminal has room for."""

    def __init__(self, view: View, model: LoadedModel):
        self._view, self._pieces = view, Pieces(model)
        self._before: dict[int, list[int]] = {}
        #: (sequence, position) → time of its last change; time of the last drawing.
        self._changed: dict[tuple[int, int], float] = {}
        self._drawn = 0.0
        #: The last frame, and how many of its texts are shown.
        self._last: Frame | None = None
        self._texts = 0

    def watch(self, job: Generator[Event, None, Result]) -> Generator[Event, None, Result]:
        """The job; its frames are drawn."""
        if not self._view.console.is_terminal or self._view.quiet:
            return (yield from job)
        result = yield from map_events(observe(job, self._see), self._counting_steps)
        self._view.picture("")
        return result

    def _counting_steps(self, event: Event) -> Event | None:
        """The progress of the batch that is watched, by its steps: that of the texts would be a second bar."""
        if not isinstance(event, Progress) or event.task != event.unit:
            return event
        if self._last is None or "step" not in event.metrics:
            return None
        step, steps = min(self._last.step, self._last.requested), self._last.requested
        metrics = self._metrics(self._last) if step < steps else {}
        return Progress("denoising", step, steps, "denoising", metrics, event.share)

    def _see(self, event: Event) -> None:
        if isinstance(event, Frame):
            self._note(event)
            self._last = event
            # drawing more often than the eye sees would only cost time
            if event.step == event.steps or time.monotonic() - self._drawn > EVERY:
                self._view.picture(self._frame(event))
                self._drawn = time.monotonic()

    def _frame(self, frame: Frame) -> Group:
        console = self._view.console
        room, shown, texts = max(3, console.height - AROUND), [], 0
        for place, seen in enumerate(frame.sequences):
            text, newest = self._text(place, seen, frame.seconds)
            lines = text.wrap(console, console.width, no_wrap=False)
            if shown and len(lines) + 2 > room:
                break
            # of a text longer than the terminal, show the part that changed last
            row = _line_of(lines, newest)
            first = min(max(0, row - room // 2), max(0, len(lines) - room))
            rule = [self._rule(seen)] if len(frame.sequences) > 1 else []
            shown += [*rule, *lines[first : first + room], Text("")]
            texts += 1
            room -= len(lines) + 1 + len(rule)
            if room < 1:
                break
        self._texts = texts
        return Group(*shown)

    def _rule(self, seen: Seen) -> Text:
        """The title of a text that is one of several."""
        title = Text(f"── {seen.name or seen.number} ──", "dim")
        title.truncate(self._view.console.width, overflow="ellipsis")
        return title

    def _note(self, frame: Frame) -> None:
        """Record when each position changed."""
        if frame.step <= 1:
            self._before, self._changed = {}, {}
        for place, seen in enumerate(frame.sequences):
            before = self._before.get(place)
            if before != seen.x:
                changed = [i for i, token in enumerate(seen.x) if before is None or before[i] != token]
                self._changed |= {(place, i): frame.seconds for i in changed}
                self._before[place] = seen.x

    def _text(self, place: int, seen: Seen, now: float) -> tuple[Text, int]:
        """The text of a sequence, and the character that changed last."""
        text, newest, when = Text(), 0, 0.0
        for i, piece in enumerate(self._pieces(seen.x)):
            if piece is None:
                text.append(UNRESOLVED, "dim")
            elif seen.given[i] is not None:
                text.append(piece, "cyan")
            elif now - self._changed[place, i] < FRESH:
                if self._changed[place, i] >= when:
                    newest, when = len(text), self._changed[place, i]
                text.append(piece, "bold black on green")
            else:
                text.append(piece)
        return text, newest

    def _metrics(self, frame: Frame) -> dict[str, str]:
        """How far the batch is, for the bar."""
        free = [[i for i, token in enumerate(s.given) if token is None] for s in frame.sequences]
        there = sum(s.x[i] < self._pieces.tokens for s, gaps in zip(frame.sequences, free, strict=True) for i in gaps)
        found = {
            "evaluations": f"{max(s.evaluations for s in frame.sequences):,}",
            "tokens": f"{there:,} of {sum(map(len, free)):,}",
            "tokens/s": f"{there / max(frame.seconds, 1e-9):,.0f}",
        }
        if self._texts < len(frame.sequences):
            found["texts shown"] = f"{self._texts:,} of {len(frame.sequences):,}"
        return found


def _line_of(lines: Iterable[Text], character: int) -> int:
    """The line of a character of the text; wrapping may have dropped a space at the end of a line."""
    at = 0
    for number, line in enumerate(lines):
        at += len(line.plain) + 1
        if character < at:
            return number
    return 0
