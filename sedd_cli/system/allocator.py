"""What the C library does with memory that is freed. Only glibc is told anything; elsewhere nothing happens."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

#: mallopt's parameters, from malloc.h.
TRIM_THRESHOLD, MMAP_THRESHOLD, MMAP_MAX = -1, -3, -4
_keeping = False
#: Whoever sets one of these knows better.
VARIABLES = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_MAX_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES")


def keep_freed() -> None:
    """From now on the process keeps what it frees.

    Otherwise a tensor of more than 32 MB goes back to the kernel as soon as it is freed, and is taken again page by
    page in the next step: of a training step of SEDD small on two CPU cores that was a seventh, and the peak
    was 5.2 GB either way.
    """
    global _keeping
    if (libc := _glibc()) and not any(name in os.environ for name in VARIABLES):
        _keeping = bool(libc.mallopt(TRIM_THRESHOLD, -1) and libc.mallopt(MMAP_MAX, 0))


def give_back() -> None:
    """Return what is free to the kernel, once."""
    if libc := _glibc():
        libc.malloc_trim(0)


@contextmanager
def as_by_default() -> Iterator[None]:
    """Inside, freed memory goes back as where nothing was set: at the thresholds that glibc itself ends up with."""
    give_back()
    if not _keeping:
        yield
        return
    if libc := _glibc():
        libc.mallopt(TRIM_THRESHOLD, 64 * 2**20)
        libc.mallopt(MMAP_THRESHOLD, 32 * 2**20)
        libc.mallopt(MMAP_MAX, 65_536)
    try:
        yield
    finally:
        keep_freed()


def _glibc() -> ctypes.CDLL | None:
    if sys.platform != "linux":
        return None
    libc = ctypes.CDLL(None)
    return libc if hasattr(libc, "gnu_get_libc_version") else None
