"""Entry point of `sedd`, `python -m sedd_cli` and `torchrun -m sedd_cli`: errors in one line, exit codes."""

from __future__ import annotations

import os
import re
import sys
import threading

from sedd_cli.errors import RequestError, WorkError, out_of_memory
from sedd_cli.system import process

#: The exit code after Ctrl-C.
INTERRUPTED = 130


def main() -> None:
    """Run the command line. Exit codes: 0 success, 1 the work failed, 2 the request was wrong, 130 Ctrl-C."""
    debug = "--debug" in sys.argv
    sys.argv = [word for word in sys.argv if word != "--debug"]
    process.settle()
    from sedd_cli.cli.app import app

    try:
        app(prog_name="sedd")
    except SystemExit as end:
        _exit_at_once(end.code)
        raise
    except Exception as error:
        if debug:
            raise
        # the first of many processes prints errors that all of them raise; others print only their own
        rank = os.environ.get("RANK", "0")
        if rank == "0" or not isinstance(error, RequestError | WorkError):
            print(f"error{'' if rank == '0' else f' (process {rank})'}: {_in_one_line(error)}", file=sys.stderr)
        sys.exit(2 if isinstance(error, RequestError | PermissionError) else 1)


def _exit_at_once(code: object) -> None:
    """Skip the interpreter's shutdown after a second Ctrl-C, which would wait for a thread that writes.

    Finished workers of torchrun skip it too: one was seen to abort during torch's shutdown, for an unknown reason.
    """
    finished = code in (0, None) and os.environ.get("WORLD_SIZE", "1") != "1"
    if finished or (code == INTERRUPTED and threading.active_count() > 1):
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(int(code or 0))


def _in_one_line(error: Exception) -> str:
    if isinstance(error, RequestError | WorkError):
        text = str(error)
    elif isinstance(error, OSError) and error.filename:
        text = f"{error.filename}: {error.strerror}"
    elif out_of_memory(error):
        asked = re.search(r"allocate ([\d.]+ ?(?:bytes|[KMGT]iB))", str(error))
        more = f", {asked[1]} more were needed" if asked else ""
        text = f"not enough memory{more}: use a smaller batch"
    else:
        text = f"{type(error).__name__}: {error} (--debug shows where)"
    return " ".join(text.split())


if __name__ == "__main__":
    main()
