"""The two ways in which a command can end badly."""


class RequestError(ValueError):
    """The request is wrong: one clear line that says what to do, exit code 2."""


class DamageError(RuntimeError):
    """Something that was right once is damaged (a truncated checkpoint, an edited shard): exit code 1."""
