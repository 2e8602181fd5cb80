"""Run the measurements, the most important first, inside the given time, and keep what there is on disk."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

import torch

from sedd_cli.bench.report.measurement import (
    SIZES,
    Figure,
    Measurement,
    Overrun,
    Setting,
    SkippedError,
    lacks,
    line_of,
    release,
)
from sedd_cli.bench.report.outcome import Outcome, Report, ReportOptions, UnwritableError
from sedd_cli.system.distributed import pick_device
from sedd_cli.system.events import Event, Note

#: Seconds between the end of a measurement's time and the exception that ends it.
GRACE = 3.0
#: What a report ends with where a call does not return.
OVER = "the time is over; the report so far is in {}"


def bench_report(
    options: ReportOptions, at_hard_stop: Callable[[Report], None] | None = None
) -> Generator[Event, None, Report]:
    """Run the chosen measurements within the time, and write the report after each of their figures.

    A call that does not return when the time is over is ended with the process; before that `at_hard_stop` is called
    with the report, from another thread.
    """
    device = pick_device(options.device)
    end = options.began + 60 * options.minutes
    end_of_work = end - min(10.0, 0.05 * 60 * options.minutes)
    setting = Setting(options.recipe, options.larger, device, options.sizes or SIZES[device.type])
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    report = Report(options, name)
    report.write()
    with _hard_stop(report, end, at_hard_stop):
        for measurement in options.chosen():
            outcome = Outcome(measurement.name, measurement.table)
            report.outcomes.append(outcome)
            left = end_of_work - time.monotonic()
            setting.until = time.monotonic() + min(left, max(measurement.share * 60 * options.minutes, 5.0))
            yield Note(f"{measurement.name} …")
            try:
                yield from _measure(measurement, setting, report, outcome, left)
            finally:
                if outcome.state == "running":
                    outcome.state, outcome.reason = "interrupted", "interrupted"
                report.write()
            with suppress(RuntimeError):  # of a GPU that no longer answers: what follows fails, and the report says so
                release(setting)
            if "torch._dynamo" in sys.modules:  # compiled code holds memory, and old shapes make new ones dynamic
                torch.compiler.reset()
            if outcome.reason:
                yield Note(f"{measurement.name}: {outcome.state}: {outcome.reason}")
    yield Note(f"the report is in {options.out} and {options.out.with_suffix('.md')}")
    return report


def _measure(
    measurement: Measurement, setting: Setting, report: Report, outcome: Outcome, left: float
) -> Generator[Event, None, None]:
    """Run one measurement, unless it needs more than there is, into its outcome."""
    began = time.monotonic()
    try:
        with _alarm(setting.left() + GRACE) as alarm:
            with alarm.armed():
                needed = measurement.seconds(setting)
                if needed > left:
                    raise SkippedError(f"needs about {needed:.0f} s, {max(left, 0):.0f} s left")
                if why := lacks(setting, measurement.memory(setting)):
                    raise SkippedError(why)
                work = measurement.work(setting)
            while True:
                with alarm.armed():
                    found = next(work, None)
                if found is None:
                    break
                if isinstance(found, Figure):
                    outcome.figures.append(found)
                    report.write()
                else:
                    yield found
        outcome.state = "done"
    except Overrun:
        outcome.state, outcome.reason = "stopped", f"it took longer than {time.monotonic() - began:.0f} s"
    except SkippedError as reason:
        outcome.state, outcome.reason = "skipped", str(reason)
    except UnwritableError:
        raise
    except Exception as error:  # whatever fails in one measurement, the others run
        outcome.state, outcome.reason = "failed", line_of(error)
        error.__traceback__ = None  # the traceback holds tensors
    outcome.seconds = time.monotonic() - began


class _Alarm:
    """Raises Overrun once the time is over, but only inside of `armed`: not while a view draws or a file is written."""

    def __init__(self) -> None:
        self.over = False
        self._inside = False

    def ring(self, number: int, frame: FrameType | None) -> None:
        """The signal's handler."""
        self.over = True
        if self._inside:
            raise Overrun

    @contextmanager
    def armed(self) -> Iterator[None]:
        """A block that may be ended."""
        if self.over:
            raise Overrun
        self._inside = True
        try:
            yield
        finally:
            self._inside = False


@contextmanager
def _alarm(seconds: float) -> Iterator[_Alarm]:
    """An alarm that rings after some seconds, and again every five, in case Overrun is lost in a callback.

    Only the main thread of a system with timers has it; elsewhere a measurement ends at its next look at the clock.
    """
    alarm = _Alarm()
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "setitimer"):
        yield alarm
        return
    before = signal.signal(signal.SIGALRM, alarm.ring)
    signal.setitimer(signal.ITIMER_REAL, max(seconds, 0.1), 5.0)
    try:
        yield alarm
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@contextmanager
def _hard_stop(report: Report, end: float, at_hard_stop: Callable[[Report], None] | None = None) -> Iterator[None]:
    """End the process at `end` if the block has not ended: the last resort against a call that never returns."""
    over = threading.Event()

    def watch() -> None:
        if over.wait(max(end - time.monotonic(), 1.0)):
            return
        last = report.outcomes[-1]
        if last.state == "running":
            last.state, last.reason = "stopped", "it did not return; the process was ended"
        with suppress(Exception):
            report.write()
        with suppress(OSError):
            os.write(2, f"error: {OVER.format(report.options.out)}\n".encode())
        if at_hard_stop is not None:
            with suppress(Exception):
                at_hard_stop(report)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
    try:
        yield
    finally:
        over.set()
