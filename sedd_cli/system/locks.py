"""Locks between processes on one machine."""

from __future__ import annotations

import errno
import stat
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from sedd_cli.errors import RequestError

#: Errors of a file system without locks: Lustre and NFS without them, FUSE.
NO_LOCKS = (errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK)


@contextmanager
def file_lock(lock: Path, refusal: str, timeout: float = 0, remove: bool = False) -> Iterator[None]:
    """Hold a lock file while the block runs; where the file system has no locks, warn and go on without.

    Args:
        lock: The lock file; it is made where it does not exist.
        refusal: What another process is doing, for the message.
        timeout: Seconds to wait for the lock; -1: without end.
        remove: Remove the lock file at the end.

    Raises:
        RequestError: Another process holds the lock, or what lies there is no lock file.
    """
    from filelock import FileLock, Timeout

    if not _free(lock):
        raise RequestError(f"{lock} is in the way: an empty file is made there as a lock; rename or remove it")
    if not _lockable(lock.parent):
        warnings.warn(f"{lock.parent} is on a file system without locks: run one command at a time there", stacklevel=3)
        yield
        return
    held = FileLock(lock, timeout=timeout)
    try:
        while True:
            before = _identity(lock)
            held.acquire()
            if not remove or before is None or before == _identity(lock):
                break
            held.release()  # another process has removed the file that was locked
    except Timeout:
        raise RequestError(f"{refusal}: wait for it to end") from None
    try:
        yield
    finally:
        if remove:
            with suppress(OSError):
                lock.unlink()
        held.release()


def beside(path: Path) -> Path:
    """The lock file of an output: in its own folder, whatever temporary folder a process has."""
    return path.with_name(f".{path.name}.lock")


def _identity(path: Path) -> tuple[int, int] | None:
    """Device and number of a file, made where there is none."""
    with suppress(OSError):
        path.touch()
        found = path.stat(follow_symlinks=False)
        return found.st_dev, found.st_ino
    return None


def _free(lock: Path) -> bool:
    """Whether the path is a lock file, which is empty, or nothing: no link, folder or pipe, and no one's text."""
    try:
        found = lock.stat(follow_symlinks=False)
    except OSError:
        return True  # absent, or opening it fails with a better message
    return stat.S_ISREG(found.st_mode) and found.st_size == 0


def _lockable(folder: Path) -> bool:
    """Whether files in a folder can be locked: tried with a file of its own, which no other process waits for."""
    try:
        import fcntl
    except ImportError:
        return True  # Windows, which has other locks
    with suppress(OSError), tempfile.TemporaryFile(dir=folder) as probe:
        try:
            fcntl.flock(probe, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            return error.errno not in NO_LOCKS
    return True  # or opening the lock fails with a better message


def is_locked(lock: Path) -> bool:
    """Whether another process holds the lock file; False where this user may not open it."""
    from filelock import FileLock, Timeout

    if not lock.is_file() or not _free(lock) or not _lockable(lock.parent):
        return False
    try:
        with FileLock(lock, timeout=0):
            return False
    except Timeout:
        return True
    except OSError:
        return False
