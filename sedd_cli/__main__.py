"""Entry of `sedd`, of `python -m sedd_cli` and of torchrun."""

from __future__ import annotations

import atexit
import gc
import os
import signal
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from types import FrameType
from typing import Any

# Python's last collection would take most of a second to go through torch
atexit.register(gc.freeze)

_Handler = Callable[[int, FrameType | None], Any]


def main() -> None:
    """Run the command line. Exit codes: 0 done, 1 the work failed, 2 the request was wrong, 130 Ctrl-C."""
    _interrupts(signal.default_int_handler, _end)  # a library that is being imported would show a traceback
    debug = "--debug" in sys.argv
    sys.argv = [word for word in sys.argv if word != "--debug"]
    from sedd_cli.system import process

    process.configure()
    from sedd_cli.cli.app import run

    _interrupts(_end, signal.default_int_handler)
    code = run(sys.argv[1:], debug)
    _interrupts(signal.default_int_handler, _end)
    _exit_at_once(code)
    sys.exit(code)


def _interrupts(before: _Handler, now: _Handler) -> None:
    """Handle Ctrl-C by `now`; a process that ignores it, or handles it in another way than `before`, is left alone."""
    if threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGINT) is before:
        signal.signal(signal.SIGINT, now)


def _end(number: int, frame: FrameType | None) -> None:
    """End quietly, at a moment in which nothing has to be finished."""
    os._exit(130)


def _exit_at_once(code: int) -> None:
    """Skip Python's shutdown where it would hang or abort.

    It hangs after a second Ctrl-C while a thread still writes a checkpoint. With several processes, the teardown of
    torch was seen to abort a worker that had finished.
    """
    finished = code == 0 and os.environ.get("WORLD_SIZE", "1") != "1"
    if finished or (code == 130 and threading.active_count() > 1):
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError):
                stream.flush()
        os._exit(code)


if __name__ == "__main__":
    main()
