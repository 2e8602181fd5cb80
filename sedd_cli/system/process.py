"""Settings of the process that must be made before torch is imported: threads, allocator, warnings."""

from __future__ import annotations

import math
import os
import sys
import textwrap
import warnings
from contextlib import suppress
from pathlib import Path
from typing import Any

from sedd_cli.errors import one_line
from sedd_cli.system import allocator

QUOTA = Path("/sys/fs/cgroup/cpu.max")
#: The number of threads that `configure` has set.
_limit: str | None = None


def configure() -> None:
    """Respect the CPU quota, keep freed memory, show warnings in one line, and open the standard streams."""
    open_streams()
    # By default OpenMP threads spin so long while waiting that another busy process slows two-core training eightfold.
    # Spinning briefly costs 3 % on an idle machine and is three times faster on a busy one.
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    global _limit
    if (cores := quota()) is not None and cores < (os.cpu_count() or 1) and "OMP_NUM_THREADS" not in os.environ:
        os.environ["OMP_NUM_THREADS"] = _limit = str(cores)
    allocator.keep_freed()
    warnings.showwarning = show_warning


def share_of_threads(count: int) -> dict[str, str]:
    """The environment variable with the threads of each of `count` processes; none where the user set it."""
    if os.environ.get("OMP_NUM_THREADS", _limit) != _limit:
        return {}
    return {"OMP_NUM_THREADS": str(max(1, (quota() or os.cpu_count() or 1) // count))}


def open_streams() -> None:
    """Give the process three open standard streams. Characters that the encoding of an output lacks are spelled.

    Bytes that do not decode come from standard input as they come from the command line. Without a stream, the next
    file that is opened would take its number, and receive what libraries print. A standard output that was closed still
    cannot be written, so that a result is not lost unnoticed.
    """
    while (fd := os.open(os.devnull, os.O_RDWR)) <= 2:
        if fd == 1:
            os.dup2(unwritable := os.open(os.devnull, os.O_RDONLY), fd)
            os.close(unwritable)
        os.set_inheritable(fd, True)
    os.close(fd)
    for fd, (name, mode) in enumerate((("stdin", "r"), ("stdout", "w"), ("stderr", "w"))):
        if getattr(sys, name) is None:
            setattr(sys, name, open(fd, mode, encoding="utf-8", closefd=False))  # noqa: SIM115
    spelled = "backslashreplace"
    for stream, errors in ((sys.stdin, "surrogateescape"), (sys.stdout, spelled), (sys.stderr, spelled)):
        with suppress(AttributeError, ValueError, OSError):  # a stream of a notebook or a test
            stream.reconfigure(errors=errors)  # type: ignore[union-attr]


def show_warning(message: Warning | str, *_: object, **__: object) -> None:
    """Print a warning without its place in the code; of many processes the first does."""
    if os.environ.get("RANK", "0") != "0":
        return
    with suppress(OSError, ValueError):
        print(at_words(f"warning: {one_line(str(message))}", sys.stderr), file=sys.stderr)


def at_words(text: str, stream: Any, indent: int = 0) -> str:
    """A line for a stream: broken between words if that is a terminal, which would break inside them; else as it is.

    indent: spaces before the second line and those after it.
    """
    try:
        width = os.get_terminal_size(stream.fileno()).columns if stream.isatty() else 0
    except (OSError, ValueError, AttributeError):  # a stream of a notebook or a test
        width = 0
    if not width:
        return text
    wrapper = textwrap.TextWrapper(width, subsequent_indent=" " * indent, break_long_words=False)
    wrapper.break_on_hyphens = False
    return wrapper.fill(text)


def quota() -> int | None:
    """The CPU quota of a container in cores, rounded up; None without a limit. torch ignores the quota."""
    with suppress(OSError, ValueError):
        limit, period = QUOTA.read_text().split()
        return None if limit == "max" else math.ceil(int(limit) / int(period))
    return None
