"""How a command ends: its exit code, its one line of error, its one JSON document."""

from __future__ import annotations

import errno
import os
import re
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from sedd_cli import errors
from sedd_cli.errors import RequestError, WorkError, first_line, out_of_memory, shell_command
from sedd_cli.system.json_lines import json_text, not_finite
from sedd_cli.system.process import at_words

#: Exit codes beside 0: the work failed, the request was wrong, Ctrl-C.
FAILED, WRONG, INTERRUPTED = 1, 2, 130
#: Shown after Ctrl-C while a command still reads what it needs, and during work that keeps nothing.
BEFORE_THE_WORK = "interrupted before the work began: nothing was written"
NOTHING_KEPT = "interrupted: nothing is kept, the same command begins anew"


def main_process() -> bool:
    """Whether this is the only process, or the first of those that torchrun started."""
    return os.environ.get("RANK", "0") == "0"


def is_usage_error(error: BaseException) -> bool:
    """Whether typer refused the command line. The class lies in click or in typer, depending on typer's version."""
    return hasattr(error, "format_message") and hasattr(error, "exit_code")


def is_interrupt(error: BaseException | None) -> bool:
    """Whether an error is Ctrl-C, or what a library made of it: an import that it breaks off becomes an ImportError."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        if isinstance(error, KeyboardInterrupt):
            return True
        seen.add(id(error))
        error = error.__cause__ or error.__context__
    return False


def exit_code(error: BaseException) -> int:
    """The exit code of a command that ends with this error."""
    if isinstance(error, KeyboardInterrupt):
        return INTERRUPTED
    wrong = isinstance(error, RequestError | PermissionError) or is_usage_error(error)
    return WRONG if wrong or getattr(error, "errno", None) == errno.ENAMETOOLONG else FAILED


def one_line(error: BaseException) -> str:
    """What went wrong, without line breaks."""
    if isinstance(error, KeyboardInterrupt):
        text = "interrupted"
    elif is_usage_error(error):
        text = error.format_message() or "no command was given"  # type: ignore[attr-defined]
    elif isinstance(error, RequestError | WorkError):
        text = str(error)
    elif isinstance(error, OSError) and error.filename:
        text = f"{error.filename}: {error.strerror}"
    elif out_of_memory(error):
        missing = re.search(r"allocate ([\d.]+ ?(?:bytes|[KMGT]iB))", str(error))
        more = f", {missing[1]} more were requested" if missing else ""
        text = f"not enough memory{more}: use a smaller batch"
    else:
        text = f"{type(error).__name__}: {first_line(error)} (--debug shows the traceback)"
    return errors.one_line(text)


def failure(error: BaseException) -> dict[str, Any]:
    """The JSON document of a command that fails."""
    return {"error": one_line(error), "exit": exit_code(error)}


class Output:
    """What a command writes to standard output and standard error.

    What cannot be written (a reader that went away, a full disk) is dropped, with one warning: it does not end the
    work. Where it was on standard output, which holds the result of a command, and the result is stored nowhere else,
    the command fails at its end. A reader that goes away early from a command that did no work, and only shows what is
    stored, is not mentioned.
    """

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Begin a command."""
        self.document = self.stored = False
        #: Whether an error is shown with its traceback.
        self.debug = False
        #: Whether a job was started, whose result can be lost.
        self.worked = False
        #: The JSON document so far: a command that fails after it has its result writes both.
        self.result: dict[str, Any] = {}
        #: The line after Ctrl-C, or what makes it: what is kept, and how to go on.
        self.interrupted: str | Callable[[], str] = BEFORE_THE_WORK
        self._gone: dict[bool, str] = {}
        self._reader_left = False

    def write(self, text: str) -> None:
        """Write to standard output."""
        try:
            sys.stdout.write(text)
            sys.stdout.flush()
        except UnicodeEncodeError:  # a stream that `process.open_streams` could not set
            sys.stdout.write(text.encode("ascii", "backslashreplace").decode("ascii"))
        except (OSError, ValueError) as error:  # ValueError: the stream is closed
            self.fail(error)

    def fail(self, error: Exception, stderr: bool = False) -> None:
        """Note that standard output, or standard error, cannot be written."""
        if stderr not in self._gone:
            self._gone[stderr] = getattr(error, "strerror", None) or str(error)
            to_null(sys.stderr if stderr else sys.stdout)
            if not stderr:
                self._reader_left = isinstance(error, BrokenPipeError) and not self.worked
                if self.stored:  # else `check` reports what is lost
                    more = f"({self._gone[stderr]}): the work goes on without it"
                    say_error(f"warning: standard output cannot be written {more}")

    @property
    def unread(self) -> bool:
        """Whether the reader of a command that only shows something has gone away."""
        return self._reader_left and not self.worked

    def close(self) -> None:
        """Flush standard output. WorkError if the result was lost with it."""
        try:
            sys.stdout.flush()
        except (OSError, ValueError) as error:
            self.fail(error)
        self.check()

    def explained(self, error: BaseException) -> BaseException:
        """The error; where typer could not write its help to standard output, a WorkError about that."""
        if isinstance(error, OSError) and not error.filename:
            with suppress(WorkError):
                self.close()
                return error
            return WorkError(f"standard output cannot be written ({self._gone[False]})")
        return error

    def check(self) -> None:
        """WorkError if a result was lost that is stored nowhere else."""
        if False in self._gone and not self.stored and not self.unread:
            raise WorkError(f"the result was lost: standard output cannot be written ({self._gone[False]})")

    def json(self, data: Any) -> None:
        """Write the document of `--json`, at most once per command; processes other than the first write nothing."""
        if main_process():
            say_not_finite(data)
            encoding = (getattr(sys.stdout, "encoding", None) or "utf-8").lower().replace("-", "")
            self.write(json_text(data, 1, ascii_only=not encoding.startswith("utf")) + "\n")
            self.document = True


def say_not_finite(data: Any) -> None:
    """Warn of the numbers of a document that are NaN or infinite, which JSON has no words for."""
    if found := not_finite(data):
        say_error(f"warning: not finite, null in the JSON: {errors.one_line(errors.listed(found, 3))}")


def say_error(text: str) -> None:
    """A line on standard error, if there is one; indented lines below it are commands, which stay whole.

    Control characters are spelled.
    """
    text = errors.printable(text)
    lines = [line if line.startswith("  ") else at_words(line, sys.stderr) for line in text.split("\n")]
    with suppress(OSError, ValueError):
        print("\n".join(lines), file=sys.stderr, flush=True)


def continues(kept: str, more: str = "") -> str:
    """What to say after Ctrl-C: what is kept, and the command that goes on with it.

    more: a remark, added in brackets.
    """
    said = f"interrupted: {kept}, the same command continues{more and f' ({more})'}"
    if os.environ.get("WORLD_SIZE", "1") != "1":  # torchrun and its words stand before the command
        return said
    words = [word for word in sys.argv[1:] if word not in ("--fresh", "--no-resume")]
    return f"{said}:\n  {shell_command(['sedd', *words])}"


def to_null(stream: Any) -> None:
    """Let a stream that cannot be written swallow what follows, also what Python flushes when it exits."""
    with suppress(OSError, ValueError, AttributeError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, stream.fileno())
        os.close(null)


#: The output of the command that runs; `app.run` resets it.
output = Output()
