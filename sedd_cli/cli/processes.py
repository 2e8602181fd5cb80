"""`--processes N`: start a command in N processes of this machine, as torchrun does, and end them together."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from sedd_cli.cli.outcome import FAILED, INTERRUPTED
from sedd_cli.errors import WorkError
from sedd_cli.system.process import share_of_threads

#: Seconds after a failure until the other processes get a signal to stop, and after that until they are killed.
GRACE, LAST = 10.0, 30.0
#: Signals that are passed on to the processes, each of which finishes its step, saves and stops.
PASSED_ON = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP)

Processes = list[subprocess.Popen[bytes]]


def launched() -> bool:
    """Whether this process is one of many already."""
    return "WORLD_SIZE" in os.environ


def launch(words: list[str], count: int, debug: bool = False) -> int:
    """Run `sedd WORDS` in `count` processes; the first of them prints. debug: with the traceback of an error.

    Returns:
        0 if all ended well, 130 after Ctrl-C, else the exit code of the first process if it failed, or of another.

    Raises:
        WorkError: A signal ended the first process, which prints.
    """
    command = [sys.executable, "-m", "sedd_cli", *without_option(words, "--processes"), *["--debug"] * debug]
    environment = _environment(count)
    interrupted, processes = False, Processes()

    def pass_on(number: int) -> None:
        nonlocal interrupted
        interrupted |= number == signal.SIGINT
        _send(processes, signal.SIGTERM if number == signal.SIGHUP else number)  # a terminal that was closed

    with _handled(pass_on):
        for rank in range(count):
            own = environment | {"RANK": str(rank), "LOCAL_RANK": str(rank)}
            # in sessions of their own: a terminal would send them Ctrl-C a second time
            processes.append(subprocess.Popen(command, env=own, start_new_session=True))
        _wait(processes)
    codes = [process.returncode for process in processes]
    if codes[0] < 0:  # it prints, and could not
        raise WorkError(f"the first process was ended by {signal.Signals(-codes[0]).name}")
    if interrupted and all(code in (0, INTERRUPTED) for code in codes):
        return INTERRUPTED
    return next((code if code > 0 else FAILED for code in codes if code), 0)


def without_option(words: list[str], option: str) -> list[str]:
    """The words without an option and its value: `--processes N` or `--processes=N`."""
    kept = [word for word in words if not word.startswith(f"{option}=")]
    if option in kept:
        at = kept.index(option)
        del kept[at : at + 2]
    return kept


def _environment(count: int) -> dict[str, str]:
    """What torchrun would set for every one of `count` processes, with a port that is free now."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    world = {"WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count)}
    return os.environ | share_of_threads(count) | world | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}


def _wait(processes: Processes) -> None:
    """Wait until all have ended; where one fails, the others get a signal to stop after a while, then are killed."""
    failed, told = float("inf"), False
    while any(process.poll() is None for process in processes):
        now = time.monotonic()
        if any(process.returncode for process in processes):
            failed = min(failed, now)
        if now > failed + GRACE + LAST:
            _send(processes, signal.SIGKILL)
        elif now > failed + GRACE and not told:
            _send(processes, signal.SIGTERM)
            told = True
        time.sleep(0.05)


def _send(processes: Processes, number: int) -> None:
    for process in processes:
        with suppress(OSError):
            process.send_signal(number)


@contextmanager
def _handled(handle: Callable[[int], None]) -> Iterator[None]:
    """Pass signals to `handle` while the block runs, but for those that are ignored, as nohup has it."""
    heard = [number for number in PASSED_ON if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, lambda number, frame: handle(number)) for number in heard}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
