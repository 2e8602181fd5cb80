"""One process at a time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sedd_cli.errors import RequestError


@contextmanager
def file_lock(lock: Path, refusal: str) -> Iterator[None]:
    """Hold a lock file while the block runs; a second process gets the refusal as a RequestError, at once."""
    from filelock import FileLock, Timeout

    held = FileLock(lock, timeout=0)
    try:
        held.acquire()
    except Timeout:
        raise RequestError(f"{refusal}: wait for it to end") from None
    try:
        yield
    finally:
        held.release()
