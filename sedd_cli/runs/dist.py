"""The handful of calls behind which many processes hide; with one process they cost nothing.

torchrun sets the environment that `connect` reads. The training loop never asks how many processes there are.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
from torch import Tensor, nn

from sedd_cli.errors import RequestError


@dataclass(frozen=True)
class Dist:
    """This process's place among `world` processes, and its device."""

    rank: int
    world: int
    device: torch.device

    @property
    def main(self) -> bool:
        """Whether this process speaks and writes for all."""
        return self.rank == 0

    def share(self, batch: int) -> range:
        """The rows of a global batch that belong to this process."""
        if batch % self.world:
            raise RequestError(f"train.batch ({batch}) must be a multiple of the number of processes ({self.world})")
        each = batch // self.world
        return range(self.rank * each, (self.rank + 1) * each)

    def parallel(self, module: nn.Module) -> nn.Module:
        """The module with gradients averaged over processes in its backward pass."""
        if self.world == 1:
            return module
        from torch.nn.parallel import DistributedDataParallel

        return DistributedDataParallel(module, device_ids=[self.device] if self.device.type == "cuda" else None)

    @contextmanager
    def accumulate(self, module: nn.Module, last: bool) -> Iterator[None]:
        """A backward pass of which only the last of a step needs the other processes."""
        if self.world == 1 or last:
            yield
        else:
            with module.no_sync():
                yield

    def any(self, here: bool) -> bool:
        """Whether it is so on any process; the same answer on all."""
        if self.world == 1:
            return here
        return bool(self.total(torch.tensor(int(here), device=self.device)) > 0)

    def total(self, values: Tensor) -> Tensor:
        """Sum over processes, the same on each."""
        if self.world > 1:
            torch.distributed.all_reduce(values)
        return values

    def wait(self) -> None:
        """Return once every process has come here."""
        if self.world > 1:
            torch.distributed.barrier()


def pick_device(device: str) -> torch.device:
    """`auto` → cuda where there is one, else cpu; any other name is taken as it is, if the machine has it."""
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        chosen = torch.device(device)
        torch.empty(1, device=chosen)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0].split(". ")[0]
        raise RequestError(f"device {device!r} is not available here: {reason[:120]}") from None
    if chosen.type not in ("cpu", "cuda"):
        raise RequestError(f"device {device!r}: exact draws need float64, which only cpu and cuda give here")
    return chosen


@contextmanager
def connect(device: str = "auto") -> Iterator[Dist]:
    """Join the processes torchrun started; alone without it."""
    world, rank = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("RANK", "0"))
    if world == 1:
        yield Dist(0, 1, pick_device(device))
        return
    if device == "cuda" or (device == "auto" and torch.cuda.is_available()):
        device = f"cuda:{os.environ['LOCAL_RANK']}"
    chosen = pick_device(device)
    if chosen.type == "cuda":
        torch.cuda.set_device(chosen)
    # preparing a corpus keeps the others waiting for hours
    patience = timedelta(days=2)
    torch.distributed.init_process_group("nccl" if chosen.type == "cuda" else "gloo", timeout=patience)
    try:
        yield Dist(rank, world, chosen)
    finally:
        torch.distributed.destroy_process_group()
