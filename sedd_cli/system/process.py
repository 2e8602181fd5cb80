"""How this process gets on with its machine: threads, freed memory, warnings. Said before torch is loaded."""

from __future__ import annotations

import math
import os
import sys
import warnings
from contextlib import suppress
from pathlib import Path

from sedd_cli.system import allocator

QUOTA = Path("/sys/fs/cgroup/cpu.max")


def settle() -> None:
    """Take no more than the process was given, keep what it frees, and warn in one line."""
    # By default waiting OpenMP threads spin for so long that one busy neighbour slows two-core training eightfold;
    # spinning briefly costs 3 % on a quiet machine and is three times faster on a busy one.
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    if (cores := quota()) is not None and cores < (os.cpu_count() or 1):
        os.environ.setdefault("OMP_NUM_THREADS", str(cores))
    allocator.keep_freed()
    warnings.showwarning = show_warning


def show_warning(message: Warning | str, *_: object, **__: object) -> None:
    """A warning without the place in the code it comes from."""
    print(f"warning: {' '.join(str(message).split())}", file=sys.stderr)


def quota() -> int | None:
    """Cores' worth of time that a container may take, rounded up; None without a limit. torch counts cores only."""
    with suppress(OSError, ValueError):
        limit, period = QUOTA.read_text().split()
        return None if limit == "max" else math.ceil(int(limit) / int(period))
    return None
