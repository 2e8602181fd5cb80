"""Draws the events of a job: live bars in a terminal, plain lines elsewhere, JSON under `--json`."""

from __future__ import annotations

import textwrap
import time
from collections.abc import Callable, Generator, Iterable
from contextlib import AbstractContextManager, nullcontext
from datetime import timedelta
from functools import singledispatchmethod
from pathlib import Path
from typing import Any

from rich.console import RenderableType
from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars
from rich.table import Table
from rich.text import Text

from sedd_cli.cli.outcome import NOTHING_KEPT, failure, main_process, output, say_not_finite
from sedd_cli.cli.view.console import PlainConsole
from sedd_cli.cli.view.denoising import sample
from sedd_cli.cli.view.results import bounds_table
from sedd_cli.errors import MESSAGE, plus_minus, printable, shortened, spelled_error
from sedd_cli.system import events as e

#: Seconds between two plain lines of one task when the output is not a terminal.
PLAIN_EVERY = 10.0


#: Columns below which the metrics of a bar stand below it.
NARROW = 100


class Live(Bars):
    """Progress bars, with metrics of the job below them."""

    below: RenderableType = ""
    #: Whether the metrics stand below their bars.
    narrow = False

    def get_renderables(self) -> Iterable[RenderableType]:
        yield from super().get_renderables()
        if self.narrow:
            for task in self.tasks:
                if task.visible and task.fields["metrics"]:
                    yield Text(f"  {task.fields['metrics']}", "cyan", no_wrap=True, overflow="ellipsis")
        if self.below and not self.finished:
            yield self.below


class View:
    """Draws events. Prints on the first process only; with `json`, on standard error."""

    def __init__(self, json: bool = False, quiet: bool = False):
        self.json = json
        self.quiet = quiet or not main_process()
        self.console = PlainConsole(stderr=json)
        # notes go to standard output in a terminal only, so that a redirected output holds results alone
        self.aside = self.console if self.console.is_terminal else PlainConsole(stderr=True, soft_wrap=True)
        self._bars: Live | None = None
        self._tasks: dict[str, Any] = {}
        self._last_line: dict[str, float] = {}
        self._rows = sample.BatchRows()

    def run(self, job: Generator[e.Event, None, e.Result], interrupted: str | Callable[[], str] = "") -> e.Result:
        """Draw every event and return the result of the job.

        interrupted: the line to show after Ctrl-C, or what makes it: what is kept, and how to go on.
        """
        output.interrupted, output.worked = interrupted or NOTHING_KEPT, True
        with self._live():
            return e.result_of(e.observe(job, self.show))

    def document(self, data: Any, error: Exception | None = None) -> None:
        """Write the command's JSON document under `--json`; `error` is the one with which the command will end."""
        if self.json:
            output.json(data | failure(error) if error else data)

    def write(self, data: Any, out: Path | None) -> None:
        """Write the JSON document to the file of `--out`, if there is one."""
        if out is not None:
            from sedd_cli.system.files import write_document

            output.result = data
            if not self.json:  # which reports it itself
                say_not_finite(data)
            write_document(out, data)
            output.stored = True
            self.say(f"wrote {out}", "dim")

    def say(self, text: str, style: str = "") -> None:
        """Print a text of at most about MESSAGE characters, unless quiet."""
        if not self.quiet:
            self.aside.print(Text(self._wrapped(shortened(text, MESSAGE)), style=style), soft_wrap=True)

    def _wrapped(self, text: str) -> str:
        """A text for a terminal, broken between words; elsewhere, and where it is indented, its lines are kept.

        What is indented are commands, which are to be copied.
        """
        if not self.aside.is_terminal:
            return text
        fill = textwrap.TextWrapper(self.aside.width, break_long_words=False, break_on_hyphens=False).fill
        return "\n".join(line if line.startswith("  ") else fill(line) for line in text.split("\n"))

    @property
    def shows_result(self) -> bool:
        """Whether the command's result is printed: also when quiet, unless the JSON document holds it."""
        return main_process() and not (self.quiet and self.json)

    def result(self, what: Table | Text | str) -> None:
        """Print what is the command's result, also when quiet."""
        if self.shows_result:
            self.console.print(what)

    def picture(self, what: RenderableType) -> None:
        """Show this below the bars until it is replaced; nothing happens without bars."""
        if self._bars:
            self._bars.below = what

    @singledispatchmethod
    def show(self, event: e.Event) -> None:
        """Draw one event; kinds without a handler are ignored."""

    @show.register
    def _(self, event: e.Note) -> None:
        self.say(event.text, "dim")

    @show.register
    def _(self, event: e.Warn) -> None:
        # one line: the name of a file may hold a line end
        self.say(f"warning: {event.text.replace(chr(10), ' ')}", "yellow")

    @show.register
    def _(self, event: e.Progress) -> None:
        self._advance(event.task, event.done, event.total, event.unit, event.metrics, event.share)

    @show.register
    def _(self, event: e.TrainStep) -> None:
        metrics = step_metrics(event)
        if self._bars:
            # the metrics stand below the running bar; its final line keeps the loss
            ended = event.step == event.steps
            self._bars.below = "" if ended else metrics_row(metrics)
            metrics = {"loss": metrics["loss"]} if ended else {}
        self._advance("training", event.step, event.steps, "steps", metrics)

    @show.register
    def _(self, event: e.Validated) -> None:
        errors = f"{plus_minus(event.bits_per_char, event.bits_per_char_error, 3)} bits/char"
        if event.between_documents_error:  # 0 where nothing is left beside the error of the draws
            errors += f" (± {spelled_error(event.between_documents_error, 3)} by choice of text)"
        self.say(f"step {event.step:,}: {event.split} {event.sign} {errors}, {event.blocks} blocks", "green")

    @show.register
    def _(self, event: e.Saved) -> None:
        if not (self._bars and self.console.is_terminal):
            self.say(f"saved {event.path}", "dim")

    @show.register
    def _(self, event: e.Sampled) -> None:
        if self.quiet and event.at_step is not None:
            return  # samples during training are progress
        if self.console.is_terminal or self.json or event.at_step is not None:
            if not self.quiet:
                self.console.print(self._sample(event))
            elif not self.json:
                output.write(printable(sample.row_of(event)) + "\n")
        else:  # a file or a pipe receives the text as it is
            output.check()
            if self.quiet:
                output.write(f"{sample.row_of(event)}\n")
            else:
                title = printable(" · ".join(sample.title_of(event)))
                output.write(f"--- {title} ---\n{sample.body_of(event)}\n\n")

    @show.register
    def _(self, event: e.Evaluated) -> None:
        if not self.quiet:
            self.console.print(bounds_table(event.result))

    def _sample(self, event: e.Sampled) -> RenderableType:
        if not self.console.is_terminal:
            return sample.plain(event)
        if isinstance(event, e.Filled) and event.job is not None:
            return self._rows.row(event)
        return sample.panel(event, self.console.width)

    def _advance(
        self, task: str, done: int, total: int | None, unit: str, metrics: dict[str, str], share: float | None = None
    ) -> None:
        if self.quiet:
            return
        spelled = "  ".join(f"{key} {value}" for key, value in metrics.items())
        finished = total is not None and done >= total
        if self._bars:
            known = "?" if total is None else total
            count = f"{done:>{len(str(known))}}/{known}"
            if task not in self._tasks:
                self._tasks[task] = self._bars.add_task(task, total=total, count=count, metrics=spelled)
            completed = done if share is None or total is None else share * total
            self._bars.update(self._tasks[task], completed=completed, total=total, count=count, metrics=spelled)
            if finished:  # a finished bar becomes a line, which leaves room for later bars
                self._bars.remove_task(self._tasks.pop(task))
                if spelled or unit != task:  # else it adds nothing to the results
                    self.say(f"{task}: {done:,} {unit}  {spelled}".rstrip(), "dim")
        elif finished or time.monotonic() - self._last_line.get(task, float("-inf")) > PLAIN_EVERY:
            if finished and self._last_line.get(task) is None and not spelled:
                return  # too quick to be worth a line
            self._last_line[task] = time.monotonic()
            self.say(f"{task}: {done:,}{f' of {total:,}' if total else ''} {unit}  {spelled}".rstrip())

    def _live(self) -> AbstractContextManager:
        if self.quiet or not self.console.is_terminal:
            return nullcontext()
        self._tasks = {}
        beside = [TextColumn("{task.fields[metrics]}", style="cyan", markup=False)]
        beside = beside if self.console.width >= NARROW else []
        self._bars = Live(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=14),
            TextColumn("{task.fields[count]}", style="progress.download", markup=False),
            *beside,
            TimeRemainingColumn(),
            TextColumn("left"),
            console=self.console,
            transient=True,
        )
        self._bars.narrow = not beside
        self.console.redrawing = self._bars.live._lock
        return self._bars


def step_metrics(event: e.TrainStep) -> dict[str, str]:
    """The metrics of training steps as text; unknown ones are left out."""
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


def metrics_row(metrics: dict[str, str]) -> Table:
    """The metrics as a row under their names."""
    shown = {name: value for name, value in metrics.items() if name != "left"}  # the bar shows it
    table = Table(*shown, box=None, pad_edge=False, header_style="dim")
    table.add_row(*shown.values())
    return table


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}" if value < 100 else f"{value:.0f}"
