"""Signals: stop a loop after its step, and hear Ctrl-C while a library works that does not."""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent import futures
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any, TypeVar

T = TypeVar("T")


class StopRequest(threading.Event):
    """Set by a signal that asks a loop to stop, or by the time. interrupted: one of the signals was Ctrl-C."""

    def __init__(self, until: float) -> None:
        super().__init__()
        self.interrupted, self._until = False, until

    def is_set(self) -> bool:
        """Whether a signal has come, or the time is over."""
        return super().is_set() or time.monotonic() > self._until


@contextmanager
def stop_requested(notify: Callable[[str], None], until: float = math.inf) -> Iterator[StopRequest]:
    """Yield an event that SIGINT, SIGTERM or SIGUSR1 sets; a second SIGINT raises KeyboardInterrupt.

    notify is called with a message at the first signal. A signal that the process ignores stays ignored. Outside the
    main thread, no signal is handled. until: the time (`time.monotonic`) from which on the event is set without a
    signal.
    """
    stopped = StopRequest(until)
    if threading.current_thread() is not threading.main_thread():
        yield stopped
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)}
    before = {number: handler for number, handler in before.items() if handler is not signal.SIG_IGN}
    interrupts = 0

    def handle(number: int, frame: Any) -> None:
        # torchrun sends SIGTERM after the SIGINT of a terminal, so only a second SIGINT stops at once
        nonlocal interrupts
        interrupts += number == signal.SIGINT
        stopped.interrupted = interrupts > 0
        if interrupts > 1:
            raise KeyboardInterrupt
        if not stopped.is_set():
            stopped.set()
            notify("finishing the step, then saving; Ctrl-C again stops at once")

    for number in before:
        signal.signal(number, handle)
    try:
        yield stopped
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def uninterrupted(work: Callable[[], T]) -> T:
    """The result of work that does not notice signals: a thread does it, so that Ctrl-C ends the command at once."""
    if threading.current_thread() is not threading.main_thread():
        return work()
    ended: list[Future[T]] = [Future()]

    def run() -> None:
        try:
            ended[0].set_result(work())
        except BaseException as error:
            ended[0].set_exception(error)

    threading.Thread(target=run, name="library", daemon=True).start()
    while not futures.wait(ended, timeout=0.2).done:
        pass
    return ended[0].result()
