"""Settings of the process that must be made before torch is imported: threads, allocator, warnings."""

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
    """Respect the CPU quota, keep freed memory, and show warnings in one line."""
    # By default OpenMP threads spin so long while waiting that one busy neighbour slows two-core training eightfold.
    # Spinning briefly costs 3 % on an idle machine and is three times faster on a busy one.
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    if (cores := quota()) is not None and cores < (os.cpu_count() or 1):
        os.environ.setdefault("OMP_NUM_THREADS", str(cores))
    allocator.keep_freed()
    warnings.showwarning = show_warning


def show_warning(message: Warning | str, *_: object, **__: object) -> None:
    """Print a warning without its place in the code."""
    print(f"warning: {' '.join(str(message).split())}", file=sys.stderr)


def quota() -> int | None:
    """The CPU quota of a container in cores, rounded up; None without a limit. torch ignores the quota."""
    with suppress(OSError, ValueError):
        limit, period = QUOTA.read_text().split()
        return None if limit == "max" else math.ceil(int(limit) / int(period))
    return None
