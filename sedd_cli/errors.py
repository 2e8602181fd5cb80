"""The ways in which a command can end badly."""


class RequestError(ValueError):
    """The request is wrong: one clear line that says what to do, exit code 2."""


class WorkError(RuntimeError):
    """The request was right but the work failed (a full disk, a loss that is not finite): exit code 1."""


class DamageError(WorkError):
    """Something that was right once is damaged (a truncated checkpoint, an edited shard): exit code 1."""


def first_line(error: BaseException) -> str:
    """What an error of another library says, in a line; its kind where it says nothing."""
    return str(error).strip().split("\n")[0][:200] or type(error).__name__


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, on a GPU or on a CPU."""
    return isinstance(error, MemoryError) or "out of memory" in str(error) or "can't allocate memory" in str(error)
