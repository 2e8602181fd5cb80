"""Processes that train together, forked from one that has imported everything: a start takes no seconds.

`python -m support.ranks` reads lines of JSON, {"argv", "processes", "errors"}, from standard input. For each it runs
the command line in so many processes, with the environment that torchrun sets, and prints their exit codes.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path


class Ranks:
    """The forking process, started when it is first needed."""

    def __init__(self, environment: dict[str, str]):
        paths = os.pathsep.join([str(Path(__file__).parents[1]), environment.get("PYTHONPATH", "")])
        self.server = subprocess.Popen(
            [sys.executable, "-m", "support.ranks"],
            env=environment | {"PYTHONPATH": paths},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def run(self, processes: int, argv: list[str], errors: Path) -> list[int]:
        """The exit codes by rank. What all of them write to standard error is in the file `errors`."""
        assert self.server.stdin is not None
        assert self.server.stdout is not None
        self.server.stdin.write(json.dumps({"argv": argv, "processes": processes, "errors": str(errors)}) + "\n")
        self.server.stdin.flush()
        return json.loads(self.server.stdout.readline())

    def close(self) -> None:
        self.server.kill()
        self.server.communicate()


def start(argv: list[str], rank: int, processes: int, port: int, errors: str) -> int:
    """Fork a process of this rank; its id."""
    if child := os.fork():
        return child
    world = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": processes, "LOCAL_WORLD_SIZE": processes}
    os.environ.update({name: str(value) for name, value in world.items()})
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    os.dup2(os.open(os.devnull, os.O_RDWR), 0)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    os.dup2(os.open(errors, os.O_WRONLY | os.O_CREAT | os.O_APPEND), 2)
    code = 1
    try:
        from sedd_cli.cli.app import run

        code = run(argv)
    finally:
        os._exit(code)


def main() -> None:
    import torch
    import torch.distributed.checkpoint.staging

    import sedd_cli.cli.app
    import sedd_cli.training.train  # noqa: F401

    torch.set_num_threads(1)
    for line in sys.stdin:
        job = json.loads(line)
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        children = [start(job["argv"], rank, job["processes"], port, job["errors"]) for rank in range(job["processes"])]
        print(json.dumps([os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]), flush=True)


if __name__ == "__main__":
    main()
