"""`sedd`, `python -m sedd_cli`, `torchrun -m sedd_cli`: one line for every error, and the right exit code."""

from __future__ import annotations

import sys

from sedd_cli.errors import RequestError, WorkError


def main() -> None:
    """Run the command line. Exit codes: 0 done, 1 the work failed, 2 the request was wrong."""
    debug = "--debug" in sys.argv
    sys.argv = [word for word in sys.argv if word != "--debug"]
    from sedd_cli.cli.app import app

    try:
        app(prog_name="sedd")
    except (RequestError, WorkError) as error:
        if debug:
            raise
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2 if isinstance(error, RequestError) else 1)
    except Exception as error:
        if debug:
            raise
        print(f"error: {type(error).__name__}: {error} (--debug shows where)", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
