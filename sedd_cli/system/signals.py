"""Stop a loop by a signal: the first one stops it after the current step, a second Ctrl-C at once."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def stop_requested(tell: Callable[[str], None]) -> Iterator[threading.Event]:
    """Yield an event that SIGINT, SIGTERM or SIGUSR1 sets; a second SIGINT raises KeyboardInterrupt.

    tell is called with a message at the first signal. Outside the main thread, no signal is handled.
    """
    stopped = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stopped
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)}
    interrupts = 0

    def handle(number: int, frame: Any) -> None:
        # torchrun sends SIGTERM after the SIGINT of a terminal, so only a second SIGINT stops at once
        nonlocal interrupts
        interrupts += number == signal.SIGINT
        if interrupts > 1:
            raise KeyboardInterrupt
        if not stopped.is_set():
            stopped.set()
            tell("finishing the step, then saving; Ctrl-C again stops at once")

    for number in before:
        signal.signal(number, handle)
    try:
        yield stopped
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
