"""Commands of sedd in forks of the testing process, which has imported torch: a start takes no seconds.

For tests of what reaches a process from outside: signals, kills, closed or full streams. A test of Python's own start
or end, such as one of encodings or of an import that fails, needs a process of its own: a fork ends without Python's
shutdown. The testing process computes on one thread (conftest.py), or forks could wait for its others for ever.
"""

from __future__ import annotations

import gc
import io
import os
import signal
import subprocess
import sys
import time
import traceback
import warnings
from collections.abc import Callable
from contextlib import suppress
from threading import Thread
from typing import Any

STREAMS = ("stdin", "stdout", "stderr")
#: Those that may still run; conftest.py ends them after each test.
RUNNING: list[Forked] = []


class Forked:
    """A running command, with the interface of `subprocess.Popen`.

    Each stream is a descriptor or a file, subprocess.PIPE, or None for the null device. begin: called in the fork.
    """

    def __init__(
        self, *words: object, cwd: object = None, stdin: Any = None, stdout: Any = subprocess.PIPE,
        stderr: Any = subprocess.PIPE, text: bool = False, begin: Callable[[], object] = lambda: None,
    ):  # fmt: skip
        self.returncode: int | None = None
        inside: list[int] = []
        for name, given in zip(STREAMS, (stdin, stdout, stderr), strict=True):
            end = None
            if given == subprocess.PIPE:
                pair = os.pipe()
                inside.append(pair[name != "stdin"])
                end = os.fdopen(pair[name == "stdin"], "wb" if name == "stdin" else "rb")
                end = io.TextIOWrapper(end, "utf-8", line_buffering=True) if text else end
            else:
                inside.append(os.open(os.devnull, os.O_RDWR) if given is None else os.dup(_descriptor(given)))
            setattr(self, name, end)
        self.pid = os.fork()
        if not self.pid:
            self._run([str(word) for word in words], inside, cwd, begin)
        RUNNING.append(self)
        for descriptor in inside:
            os.close(descriptor)

    def _run(self, words: list[str], inside: list[int], cwd: object, begin: Callable[[], object]) -> None:
        """In the fork: run the command as a process of its own would, and end."""
        code, kept = 1, (sys.stdin, sys.stdout, sys.stderr)
        gc.freeze()  # what is collected later would close descriptors that have become another's
        try:
            for number, descriptor in enumerate(inside):
                os.dup2(descriptor, number)
            os.closerange(3, 1024)  # a pipe that a fork keeps open would not end
            os.chdir(cwd or os.getcwd())
            os.environ["CUDA_VISIBLE_DEVICES"] = ""  # a fork cannot use what its parent has opened
            signal.signal(signal.SIGINT, signal.default_int_handler)
            warnings.resetwarnings()
            warnings.simplefilter("ignore", DeprecationWarning)
            sys.stdin, sys.stdout, sys.stderr = (
                open(number, mode, encoding="utf-8", errors=errors, closefd=False)  # noqa: SIM115
                for number, (mode, errors) in enumerate([("r", "strict"), ("w", "strict"), ("w", "backslashreplace")])
            )
            sys.stderr.reconfigure(line_buffering=True)
            begin()
            sys.argv = ["sedd", *words]
            from sedd_cli.__main__ import main

            try:
                main()
            except SystemExit as end:
                code = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
            try:
                sys.stdout.flush()
            except OSError:
                code = 120  # as Python ends where this fails at its shutdown
        except BaseException:
            traceback.print_exc()
        finally:
            del kept
            os._exit(code)

    def poll(self) -> int | None:
        if self.returncode is None and (status := os.waitpid(self.pid, os.WNOHANG))[0]:
            self.returncode = os.waitstatus_to_exitcode(status[1])
        return self.returncode

    def wait(self, timeout: float = 120.0) -> int:
        stop = time.monotonic() + timeout
        while self.poll() is None:
            if time.monotonic() > stop:
                self.end()
                raise subprocess.TimeoutExpired("sedd", timeout)
            time.sleep(0.002)
        return self.returncode  # pyright: ignore[reportReturnType]

    def communicate(self, timeout: float = 120.0) -> tuple[Any, Any]:
        if self.stdin is not None:
            self.stdin.close()
        found: dict[str, Any] = {}
        readers = [
            Thread(target=lambda name=name, end=end: found.update({name: end.read()}), daemon=True)
            for name in STREAMS[1:]
            if (end := getattr(self, name)) is not None
        ]
        for reader in readers:
            reader.start()
        try:
            self.wait(timeout)
        finally:
            for reader in readers:
                reader.join(10)
        return found.get("stdout"), found.get("stderr")

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def end(self) -> None:
        """Kill it if it still runs, and close its streams."""
        self.kill()
        while self.poll() is None:
            time.sleep(0.002)
        for name in STREAMS:
            if (stream := getattr(self, name)) is not None:
                with suppress(OSError, ValueError):
                    stream.close()


def _descriptor(given: Any) -> int:
    return given if isinstance(given, int) else given.fileno()
