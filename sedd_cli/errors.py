"""Errors and their exit codes."""


class RequestError(ValueError):
    """The request is wrong; the message is one line that says what to do. Exit code 2."""


class WorkError(RuntimeError):
    """The work failed (a full disk, a loss that is not finite). Exit code 1."""


class DamageError(WorkError):
    """A file is damaged (a truncated checkpoint, an edited shard). Exit code 1."""


def first_line(error: BaseException) -> str:
    """The first line of an error of another library; its class if it has no message."""
    return str(error).strip().split("\n")[0][:200] or type(error).__name__


def out_of_memory(error: BaseException) -> bool:
    """Whether an error means that memory ran out, on a GPU or on a CPU."""
    return isinstance(error, MemoryError) or "out of memory" in str(error) or "can't allocate memory" in str(error)
