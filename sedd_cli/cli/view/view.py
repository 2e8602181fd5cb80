"""Run events → what a person sees: live bars in a terminal, plain lines elsewhere, JSON when asked."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from datetime import timedelta
from functools import singledispatchmethod
from pathlib import Path
from typing import Any

from rich.console import Console, RenderableType
from rich.markup import escape
from rich.panel import Panel
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars
from rich.table import Table
from rich.text import Text

from sedd_cli.cli.outcome import failure, json_output, main_process
from sedd_cli.cli.view.results import bounds_table
from sedd_cli.system import events as e

#: Seconds between two plain lines of one task when the output is not a terminal.
PLAIN_EVERY = 10.0


class Live(Bars):
    """Progress bars, and below them the figures of the job at hand."""

    below: RenderableType = ""

    def get_renderables(self) -> Iterable[RenderableType]:
        yield from super().get_renderables()
        if self.below and not self.finished:
            yield self.below


class View:
    """Draws events. Silent on every process but the first; with `json` it speaks on standard error."""

    def __init__(self, json: bool = False, quiet: bool = False):
        self.json = json
        self.quiet = quiet or not main_process()
        self.console = Console(
            stderr=json, highlight=False, soft_wrap=not (sys.stderr if json else sys.stdout).isatty()
        )
        # results go to standard output; what only accompanies them does so in a terminal alone
        self.aside = self.console if self.console.is_terminal else Console(stderr=True, highlight=False, soft_wrap=True)
        self._bars: Live | None = None
        self._tasks: dict[str, Any] = {}
        self._spoken: dict[str, float] = {}

    def follow(self, events: Iterable[e.Event], interrupted: str = "") -> list[e.Event]:
        """Draw every event; returns those that are results rather than progress. `interrupted` is said at Ctrl-C."""
        kept = []
        try:
            with self._live():
                for event in events:
                    self.show(event)
                    if not isinstance(event, e.Progress | e.TrainStep | e.Note | e.Frame):
                        kept.append(event)
        except KeyboardInterrupt:
            if interrupted:
                self.say(interrupted, "yellow")
            raise
        return kept

    def document(self, data: Any, error: Exception | None = None) -> None:
        """Write the command's JSON document under `--json`; `error` is the one with which the command will end."""
        if self.json:
            json_output.write(data | failure(error) if error else data)

    def write(self, data: Any, out: Path | None) -> None:
        """Write the JSON document to the file of `--out`, if there is one."""
        if out is not None:
            from sedd_cli.system.files import write_whole

            write_whole(out, json.dumps(data, indent=1, ensure_ascii=False) + "\n")
            self.say(f"wrote {out}", "dim")

    def say(self, text: str, style: str = "") -> None:
        """A line for people (markup is not interpreted)."""
        if not self.quiet:
            self.aside.print(Text(text, style=style), soft_wrap=True)

    def table(self, table: Table) -> None:
        """A finished table."""
        if not self.quiet:
            self.console.print(table)

    def result(self, table: Table) -> None:
        """A table that is what the command was asked for: also shown where only that is."""
        if not (self.quiet and self.json):
            self.console.print(table)

    def picture(self, what: RenderableType) -> None:
        """Keep this below the bars until it is replaced; nothing where there are none."""
        if self._bars:
            self._bars.below = what

    @singledispatchmethod
    def show(self, event: e.Event) -> None:
        """Draw one event; kinds without a picture of their own pass silently."""

    @show.register
    def _(self, event: e.Note) -> None:
        self.say(event.text, "dim")

    @show.register
    def _(self, event: e.Warn) -> None:
        self.say(f"warning: {event.text}", "yellow")

    @show.register
    def _(self, event: e.Progress) -> None:
        self._advance(event.task, event.done, event.total, event.unit, event.figures)

    @show.register
    def _(self, event: e.TrainStep) -> None:
        figures = step_figures(event)
        if self._bars:
            self._bars.below = figures_below(figures)
            # while the bar runs the figures stand below it, its last line keeps the loss
            figures = {"loss": figures["loss"]} if event.step == event.steps else {}
        self._advance("training", event.step, event.steps, "steps", figures)

    @show.register
    def _(self, event: e.Validated) -> None:
        errors = f"{event.bits_per_char:.3f} ± {event.bits_per_char_error:.3f} bits/char"
        if event.between_documents_error:  # 0 where few blocks do not tell it from the error of the draws
            errors += f" (± {event.between_documents_error:.3f} by choice of text)"
        self.say(f"step {event.step:,}: {event.split} ≤ {errors}, {event.blocks} blocks", "green")

    @show.register
    def _(self, event: e.Saved) -> None:
        if not (self._bars and self.console.is_terminal):
            self.say(f"saved {event.path}", "dim")

    @show.register
    def _(self, event: e.Sampled) -> None:
        if self.quiet and event.at_step is not None:
            return  # asked for is what comes at the end
        if self.quiet and not self.json:
            sys.stdout.write((event.text if event.text is not None else " ".join(map(str, event.tokens))) + "\n")
        elif not self.quiet:
            self.console.print(self._sample(event))

    @show.register
    def _(self, event: e.Evaluated) -> None:
        self.table(bounds_table(event.result))

    def _sample(self, event: e.Sampled) -> Panel | Text:
        body = Text(event.text if event.text is not None else " ".join(map(str, event.tokens)))
        for start, stop in event.given:
            body.stylize("bold cyan", start, stop)
        title = " · ".join(_title(event))
        if self.console.is_terminal:
            return Panel(body, title=escape(title), title_align="left", border_style="dim")
        return Text(f"--- {title} ---\n").append(body).append("\n")

    def _advance(self, task: str, done: int, total: int | None, unit: str, figures: dict[str, str]) -> None:
        if self.quiet:
            return
        spelled = "  ".join(f"{key} {value}" for key, value in figures.items())
        finished = total is not None and done >= total
        if self._bars:
            if task not in self._tasks:
                self._tasks[task] = self._bars.add_task(escape(task), total=total, unit=unit, figures="")
            self._bars.update(self._tasks[task], completed=done, total=total, figures=escape(spelled))
            if finished:  # a finished bar becomes a line: later ones need the width and the place
                self._bars.remove_task(self._tasks.pop(task))
                self.say(f"{task}: {done:,} {unit}  {spelled}".rstrip(), "dim")
        elif finished or time.monotonic() - self._spoken.get(task, float("-inf")) > PLAIN_EVERY:
            if finished and self._spoken.get(task) is None and not spelled:
                return  # too quick to be worth a line
            self._spoken[task] = time.monotonic()
            self.say(f"{task}: {done:,}{f' of {total:,}' if total else ''} {unit}  {spelled}".rstrip())

    def _live(self) -> AbstractContextManager:
        if self.quiet or not self.console.is_terminal:
            return nullcontext()
        self._tasks = {}
        self._bars = Live(
            TextColumn("{task.description}"),
            BarColumn(bar_width=14),
            MofNCompleteColumn(),
            TextColumn("[cyan]{task.fields[figures]}"),
            TimeRemainingColumn(),
            TextColumn("left"),
            console=self.console,
            transient=True,
        )
        return self._bars


def _title(event: e.Sampled) -> list[str]:
    """What stands above a sample: its number, what it took, and all that made it another law than the model's."""
    filled = isinstance(event, e.Filled)
    found = [f"{'infill' if filled else 'sample'} {event.index}"]
    if event.prompt is not None:
        found[0] += f" of {event.prompt[:20]!r}"
    if event.at_step is not None:
        found[0] += f" at step {event.at_step:,}"
    if filled and event.job is not None:
        found[0] = f"line {event.job['line']}, {found[0]}"
    if filled and event.candidates > 1:
        which = f"candidate {event.candidate + 1}" if event.candidate else "best"
        found += [f"{which} of {event.candidates}", f"gaps of {' and '.join(map(str, event.lengths))} tokens"]
        found += [f"≤ {event.bound:.2f} ± {event.bound_error:.2f} nats/token"]
    found += [f"{event.nfe} evaluations", f"{event.seconds:.1f} s"]
    found += [event.sampler] if event.sampler != "tweedie" else []
    found += [f"{name.replace('_', '-')} {value}" for name, value in event.levers.items()]
    if filled and event.plain_edges:
        found.append("spaces before gaps are tokens of their own")
    return found


def step_figures(event: e.TrainStep) -> dict[str, str]:
    """The figures of training steps, spelled; what is unknown is left out."""
    found = {
        "loss": _number(event.loss),
        "by t 0→1": " ".join(map(_number, event.loss_by_t)),
        "gradient": _number(event.grad_norm),
        "tokens/s": f"{event.tokens_per_second:,.0f}",
        "MFU": "" if event.mfu is None else f"{event.mfu:.0%}",
        "memory": f"{event.memory / 1e9:.1f} GB",
        "skipped": f"{event.skipped}" if event.skipped else "",
        "left": str(timedelta(seconds=round(event.seconds_left))),
    }
    return {name: value for name, value in found.items() if value}


def figures_below(figures: dict[str, str]) -> Table:
    """The figures as a row under their names."""
    shown = {name: value for name, value in figures.items() if name != "left"}  # the bar says it
    table = Table(*shown, box=None, pad_edge=False, header_style="dim")
    table.add_row(*shown.values())
    return table


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}" if value < 100 else f"{value:.0f}"
