"""Locks between processes on one machine."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sedd_cli.errors import RequestError


@contextmanager
def file_lock(lock: Path, refusal: str, timeout: float = 0) -> Iterator[None]:
    """Hold a lock file while the block runs.

    Args:
        lock: The lock file; it is made where it does not exist.
        refusal: What another process is doing, for the message.
        timeout: Seconds to wait for the lock.

    Raises:
        RequestError: Another process holds the lock.
    """
    from filelock import FileLock, Timeout

    held = FileLock(lock, timeout=timeout)
    try:
        held.acquire()
    except Timeout:
        raise RequestError(f"{refusal}: wait for it to end") from None
    try:
        yield
    finally:
        held.release()


def is_locked(lock: Path) -> bool:
    """Whether another process holds the lock file; False where this user may not open it."""
    if not lock.is_file():
        return False
    try:
        with file_lock(lock, ""):
            return False
    except RequestError:
        return True
    except OSError:
        return False
