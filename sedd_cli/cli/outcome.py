"""How a command ends: its exit code, its one line of error, its one JSON document."""

from __future__ import annotations

import json
import os
import re
import sys
from typing import Any

from sedd_cli.errors import RequestError, WorkError, out_of_memory

#: Exit codes beside 0: the work failed, the request was wrong, Ctrl-C.
FAILED, WRONG, INTERRUPTED = 1, 2, 130


def main_process() -> bool:
    """Whether this is the only process, or the first of those that torchrun started."""
    return os.environ.get("RANK", "0") == "0"


def is_usage_error(error: BaseException) -> bool:
    """Whether typer refused the command line. The class lies in click or in typer, depending on typer's version."""
    return hasattr(error, "format_message") and hasattr(error, "exit_code")


def exit_code(error: BaseException) -> int:
    """The exit code of a command that ends with this error."""
    if isinstance(error, KeyboardInterrupt):
        return INTERRUPTED
    return WRONG if isinstance(error, RequestError | PermissionError) or is_usage_error(error) else FAILED


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
        text = f"{type(error).__name__}: {error} (--debug shows the traceback)"
    return " ".join(text.split())


def failure(error: BaseException) -> dict[str, Any]:
    """The JSON document of a command that fails."""
    return {"error": one_line(error), "exit": exit_code(error)}


class JsonOutput:
    """Standard output under `--json`: at most one document per command."""

    def __init__(self) -> None:
        self.written = False

    def write(self, data: Any) -> None:
        """Write the document. Processes other than the first write nothing."""
        if main_process():
            text = json.dumps(data, indent=1, ensure_ascii=False, allow_nan=False, default=str)
            sys.stdout.write(text + "\n")
            self.written = True


#: The output of the command that runs; `app.run` resets it.
json_output = JsonOutput()
