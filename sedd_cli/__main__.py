"""Entry of `sedd`, of `python -m sedd_cli` and of torchrun."""

from __future__ import annotations

import os
import sys
import threading
from contextlib import suppress

from sedd_cli.system import process


def main() -> None:
    """Run the command line. Exit codes: 0 done, 1 the work failed, 2 the request was wrong, 130 Ctrl-C."""
    debug = "--debug" in sys.argv
    sys.argv = [word for word in sys.argv if word != "--debug"]
    process.configure()
    from sedd_cli.cli.app import run

    code = run(sys.argv[1:], debug)
    _exit_at_once(code)
    sys.exit(code)


def _exit_at_once(code: int) -> None:
    """Skip Python's shutdown where it would hang or abort.

    It hangs after a second Ctrl-C while a thread still writes a checkpoint. With several processes, the teardown of
    torch was seen to abort a worker that had finished.
    """
    finished = code == 0 and os.environ.get("WORLD_SIZE", "1") != "1"
    if finished or (code == 130 and threading.active_count() > 1):
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError):
                stream.flush()
        os._exit(code)


if __name__ == "__main__":
    main()
