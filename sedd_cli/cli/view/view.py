"""Draws the events of a job: live bars in a terminal, plain lines elsewhere, JSON under `--json`."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterable
from contextlib import AbstractContextManager, nullcontext
from datetime import timedelta
from functools import singledispatchmethod
from pathlib import Path
from typing import Any

from rich.console import RenderableType
from rich.panel import Panel
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars
from rich.table import Table
from rich.text import Text

from sedd_cli.cli.outcome import NOTHING_KEPT, failure, main_process, output, say_not_finite
from sedd_cli.cli.view.console import PlainConsole
from sedd_cli.cli.view.results import bounds_table
from sedd_cli.errors import MESSAGE, WorkError, printable, shortened
from sedd_cli.system import events as e
from sedd_cli.system.json_lines import json_text

#: Seconds between two plain lines of one task when the output is not a terminal.
PLAIN_EVERY = 10.0


class Live(Bars):
    """Progress bars, with metrics of the job below them."""

    below: RenderableType = ""

    def get_renderables(self) -> Iterable[RenderableType]:
        yield from super().get_renderables()
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

    def run(self, job: Generator[e.Event, None, e.Result], interrupted: str = "") -> e.Result:
        """Draw every event and return the result of the job.

        interrupted: the line to show after Ctrl-C: what is kept, and how to go on.
        """
        output.interrupted = interrupted or NOTHING_KEPT
        with self._live():
            return e.result_of(e.observe(job, self.show))

    def document(self, data: Any, error: Exception | None = None) -> None:
        """Write the command's JSON document under `--json`; `error` is the one with which the command will end."""
        if self.json:
            output.json(data | failure(error) if error else data)

    def write(self, data: Any, out: Path | None) -> None:
        """Write the JSON document to the file of `--out`, if there is one."""
        if out is not None:
            from sedd_cli.system.files import write_whole

            if not self.json:  # which says it itself
                say_not_finite(data)
            try:
                write_whole(out, json_text(data, 1) + "\n")
            except OSError as error:
                raise WorkError(f"cannot write {out}: {error.strerror}") from None
            output.stored = True
            self.say(f"wrote {out}", "dim")

    def say(self, text: str, style: str = "", most: int = MESSAGE) -> None:
        """Print a text of at most about `most` characters, unless quiet."""
        if not self.quiet:
            self.aside.print(Text(shortened(text, most), style=style), soft_wrap=True)

    def table(self, table: Table) -> None:
        """Print a table, unless quiet."""
        if not self.quiet:
            self.console.print(table)

    def result(self, what: Table | str) -> None:
        """Print what is the command's result, also when quiet."""
        if not (self.quiet and self.json):
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
        self.say(f"warning: {event.text}", "yellow")

    @show.register
    def _(self, event: e.Progress) -> None:
        self._advance(event.task, event.done, event.total, event.unit, event.metrics)

    @show.register
    def _(self, event: e.TrainStep) -> None:
        metrics = step_metrics(event)
        if self._bars:
            self._bars.below = metrics_row(metrics)
            # the metrics stand below the running bar; its final line keeps the loss
            metrics = {"loss": metrics["loss"]} if event.step == event.steps else {}
        self._advance("training", event.step, event.steps, "steps", metrics)

    @show.register
    def _(self, event: e.Validated) -> None:
        errors = f"{event.bits_per_char:.3f} ± {event.bits_per_char_error:.3f} bits/char"
        if event.between_documents_error:  # 0 if it cannot be told from the error of the draws
            errors += f" (± {event.between_documents_error:.3f} by choice of text)"
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
                output.write(printable(_body(event)) + "\n")
        else:  # a file or a pipe receives the text as it is
            title = "" if self.quiet else f"--- {printable(' · '.join(_title(event)))} ---\n"
            output.check()
            output.write(f"{title}{_body(event)}\n{'' if self.quiet else chr(10)}")

    @show.register
    def _(self, event: e.Evaluated) -> None:
        if not self.quiet:
            self.console.print(bounds_table(event.result))

    def _sample(self, event: e.Sampled) -> Panel | Text:
        body = Text(_body(event))
        for start, stop in event.given:
            body.stylize("bold cyan", start, stop)
        title = " · ".join(_title(event))
        if self.console.is_terminal:
            return Panel(body, title=Text(title), title_align="left", border_style="dim")
        return Text(f"--- {title} ---\n").append(body).append("\n")

    def _advance(self, task: str, done: int, total: int | None, unit: str, metrics: dict[str, str]) -> None:
        if self.quiet:
            return
        spelled = "  ".join(f"{key} {value}" for key, value in metrics.items())
        finished = total is not None and done >= total
        if self._bars:
            if task not in self._tasks:
                self._tasks[task] = self._bars.add_task(task, total=total, unit=unit, metrics="")
            self._bars.update(self._tasks[task], completed=done, total=total, metrics=spelled)
            if finished:  # a finished bar becomes a line, which leaves room for later bars
                self._bars.remove_task(self._tasks.pop(task))
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
        self._bars = Live(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=14),
            MofNCompleteColumn(),
            TextColumn("{task.fields[metrics]}", style="cyan", markup=False),
            TimeRemainingColumn(),
            TextColumn("left"),
            console=self.console,
            transient=True,
        )
        return self._bars


def _body(event: e.Sampled) -> str:
    """The text of a sample; its ids where the model has no tokenizer."""
    return event.text if event.text is not None else " ".join(map(str, event.tokens))


def _title(event: e.Sampled) -> list[str]:
    """The heading of a sample: its number, its cost, and the options that change its distribution."""
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
