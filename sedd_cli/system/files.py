"""Write files atomically: a reader finds the old file or the new one, never a part."""

from __future__ import annotations

import errno
import io
import os
import re
import secrets
import shutil
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, BinaryIO, Literal, TextIO

import numpy as np

from sedd_cli.errors import RequestError, WorkError, nearest_name
from sedd_cli.system.json_lines import json_text

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None


#: The beginning of an .npy file.
NPY = b"\x93NUMPY"
#: Links that are followed from one to the next.
MOST_LINKS = 40
_STREAMS = ("stdin", "stdout", "stderr")
_DESCRIPTOR = re.compile(
    r"/dev/((?P<stream>stdin|stdout|stderr)|fd/(?P<dev>[0-9]{1,9}))|"
    r"/proc/(?P<process>self|thread-self|[0-9]+)(/task/[0-9]+)?/fd/(?P<proc>[0-9]{1,9})"
)


def sync(stream: IO[Any]) -> None:
    """Flush a file to the disk and close it."""
    stream.flush()
    os.fsync(stream.fileno())
    stream.close()


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Name `path` in an OSError of the block that names no file, as that of a failed write, or a file in the making."""
    try:
        yield
    except OSError as error:
        if error.filename is None or is_left(Path(os.fsdecode(error.filename)).name):
            error.filename = str(path)
        raise


def sync_path(path: Path) -> None:
    """Flush a closed file, or the entries of a folder, to the disk."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def last_written(path: Path) -> int:
    """When a file was last written, in nanoseconds; 0 where there is none."""
    return path.stat().st_mtime_ns if path.is_file() else 0


def is_stream(path: Path) -> bool:
    """Whether a path is a device, a pipe or an open descriptor (/dev/stdout), which cannot be replaced."""
    if _is_descriptor(path):
        return True
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError):  # ValueError: a NUL in the name
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


def _is_descriptor(path: Path) -> bool:
    """Whether a path names an open file of a process, such as /dev/stdout, whatever kind of file it is."""
    return _descriptor(path) != "" and path.exists()


def _descriptor(path: Path) -> str:
    """The name of an open file of a process that a path is, or leads to through links; else ""."""
    name = os.path.abspath(path)
    with suppress(OSError, ValueError):
        for _ in range(MOST_LINKS):
            if _DESCRIPTOR.fullmatch(name):
                return name
            folder, last = os.path.split(name)
            name = os.path.join(os.path.realpath(folder), last)
            if not _DESCRIPTOR.fullmatch(name):
                name = os.path.abspath(os.path.join(os.path.dirname(name), os.readlink(name)))
    return ""


def _own_descriptor(path: Path) -> int | None:
    """The number of the open file of this process that a path names; None where it names none, or another's."""
    found = _DESCRIPTOR.fullmatch(_descriptor(path))
    if not found or found["process"] not in (None, "self", "thread-self", str(os.getpid())):
        return None
    return _STREAMS.index(found["stream"]) if found["stream"] else int(found["dev"] or found["proc"])


def require_regular(path: Path, what: str) -> None:
    """RequestError for a named pipe, a socket or a device: reading one may wait for ever.

    A descriptor (/dev/stdin, what a shell makes of `<(command)`) has its writer, and is read. what: the input.
    """
    if is_stream(path) and not _is_descriptor(path):
        raise RequestError(f"{what}: {path} is no regular file, but a pipe, a socket or a device")


#: The least similarity (difflib's ratio) at which a path beside a missing one is suggested: a folder holds all sorts.
LEAST_SIMILARITY = 0.65


def near(path: Path, also: Iterable[str] = (), folders: bool = False) -> str:
    """The end of a message about a path that does not exist: the most similar one beside it, if one is similar enough.

    A link that leads to nothing is named as what it is.
    also: further names, for a path that is a name alone. folders: of the paths beside it, the folders alone.
    """
    if path.is_symlink():
        return ": it is a link that leads to no file"
    try:
        beside = [one.name for one in path.parent.iterdir() if one.is_dir() or not folders]
    except OSError:
        beside = []
    meant = nearest_name(path.name, beside, LEAST_SIMILARITY)
    if meant is None and len(path.parts) == 1:
        meant = nearest_name(path.name, also)
    return f"; did you mean {str(path.parent / meant)!r}?" if meant else ""


def require_utf8(path: Path, what: str) -> None:
    """RequestError for a path that is no UTF-8, under which safetensors opens nothing. what: the input or option."""
    try:
        str(path).encode("utf-8")
    except UnicodeEncodeError:
        raise RequestError(
            f"{what}: the name {path} is no UTF-8, safetensors could not open files of this name: choose another"
        ) from None


def open_stream(path: Path) -> BinaryIO:
    """Open a device, a pipe or a descriptor for writing.

    One of this process is written from where it stands, such as standard output that a shell has redirected to a file;
    to the file of another process, it is appended.
    """
    if (number := _own_descriptor(path)) is not None:
        return os.fdopen(os.dup(number), "wb")
    return path.open("ab" if _is_descriptor(path) else "wb")


def open_output(path: Path, mode: Literal["w", "a"]) -> TextIO:
    """Open a text file, a device, a pipe or a descriptor for writing; mode "w" empties a file, "a" does not."""
    if (number := _own_descriptor(path)) is not None:
        return os.fdopen(os.dup(number), "w", encoding="utf-8")
    return path.open("a" if _is_descriptor(path) else mode, encoding="utf-8")


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Yield the path of a new file beside `path`, which replaces `path` when the block ends without an error.

    Links are followed, and the permissions of an old file are kept.
    """
    path = path.resolve()
    remove_left(path)
    with naming(path):
        beside, fd = _new_file(path)
        try:
            mode = stat.S_IMODE(path.stat().st_mode) if path.exists() else stat.S_IMODE(os.fstat(fd).st_mode)
            yield beside
            with suppress(OSError):  # the old file belongs to another user
                beside.chmod(mode)
            sync_path(beside)
            try:
                os.replace(beside, path)
            except OSError as error:
                if error.errno != errno.EBUSY:
                    raise
                shutil.copyfile(beside, path)  # a file that is a mount point cannot be replaced
                beside.unlink()
        except BaseException:
            with suppress(OSError):
                beside.unlink()
            raise
        finally:
            os.close(fd)


def _prefix(path: Path) -> str:
    name = path.name.encode("utf-8", "surrogateescape")[:200].decode("utf-8", "ignore")  # names end at 255 bytes
    return f".{name}."


def is_left(name: str) -> bool:
    """Whether a file or folder of this name is one in the making, or was left by a killed process."""
    return re.fullmatch(r"\..+\.[0-9a-f]{8}\.partial", name) is not None


def _new_file(path: Path) -> tuple[Path, int]:
    """An empty file beside `path`, and its descriptor, locked while this process writes it."""
    while True:
        beside = path.with_name(f"{_prefix(path)}{secrets.token_hex(4)}.partial")
        with suppress(FileExistsError):
            fd = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
            lock(fd)
            return beside, fd


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """An empty folder beside `path`, locked while the block runs and removed at its end."""
    while True:
        beside = path.with_name(f"{_prefix(path)}{secrets.token_hex(4)}.partial")
        with suppress(FileExistsError):
            beside.mkdir()
            break
    fd = os.open(beside, os.O_RDONLY)
    try:
        lock(fd)
        yield beside
    finally:
        os.close(fd)
        shutil.rmtree(beside, ignore_errors=True)


def remove_left(path: Path) -> None:
    """Remove what killed processes left beside `path`; the lock of a living one keeps its own."""
    if fcntl is None:
        return
    pattern = re.compile(re.escape(_prefix(path)) + r"[0-9a-f]{8}\.partial")
    with suppress(OSError):
        for left in path.parent.iterdir():
            if pattern.fullmatch(left.name) and not left.is_symlink():
                with suppress(OSError):
                    _remove_if_free(left)


def _remove_if_free(left: Path) -> None:
    fd = os.open(left, os.O_RDONLY)
    try:
        if lock(fd):
            shutil.rmtree(left) if left.is_dir() else left.unlink()
    finally:
        os.close(fd)


def lock(fd: int) -> bool:
    """Lock an open file or folder until it is closed, or its process ends; whether that succeeded."""
    if fcntl is None:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def write_whole(path: Path, content: str | bytes) -> None:
    """Write a file atomically; a device or a pipe is written directly."""
    raw = content.encode("utf-8") if isinstance(content, str) else content
    if is_stream(path):
        with naming(path), open_stream(path) as stream:
            stream.write(raw)
        return
    with whole_file(path) as beside:
        beside.write_bytes(raw)


def load_array(path: Path) -> np.ndarray | None:
    """The array of an .npy file; None where it is missing or damaged. It takes no more memory than the file."""
    try:
        with path.open("rb") as file, np.errstate(over="raise"):  # of the declared shape
            begins = file.read(len(NPY)) == NPY
            return np.array(np.load(path, mmap_mode="r", allow_pickle=False)) if begins else None
    except (OSError, ValueError, ArithmeticError, EOFError):
        return None


def write_document(path: Path, data: Any) -> None:
    """Write a JSON document, whole or not at all; WorkError where it cannot be written."""
    try:
        write_whole(path, json_text(data, 1) + "\n")
    except OSError as error:
        raise WorkError(f"cannot write {path}: {error.strerror}") from None


def save_array(path: Path, values: np.ndarray) -> None:
    """Write an .npy file atomically, and make its folder; several processes may do so at once."""
    path.parent.mkdir(parents=True, exist_ok=True)
    buffer = io.BytesIO()
    np.save(buffer, values)
    write_whole(path, buffer.getvalue())
