"""Asking a loop to end: the first signal ends it after the step at hand, a second Ctrl-C at once."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def stop_requested(tell: Callable[[str], None]) -> Iterator[threading.Event]:
    """An event that SIGINT, SIGTERM or SIGUSR1 sets; a second SIGINT interrupts at once.

    tell: called at the first signal with what will happen. Inert outside the main thread.
    """
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)}
    interrupts = 0

    def ask(number: int, frame: Any) -> None:
        # torchrun sends SIGTERM after the terminal's SIGINT: only a person's second Ctrl-C is a hard stop
        nonlocal interrupts
        interrupts += number == signal.SIGINT
        if interrupts > 1:
            raise KeyboardInterrupt
        if not asked.is_set():
            asked.set()
            tell("finishing the step, then saving; Ctrl-C again leaves at once")

    for number in before:
        signal.signal(number, ask)
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
