"""The handful of calls behind which many processes hide; with one process they cost nothing.

torchrun sets the environment that `connect` reads. The training loop never asks how many processes there are.
"""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor, nn

from sedd_cli.errors import RequestError, WorkError

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup


T = TypeVar("T")


@dataclass(frozen=True)
class Dist:
    """This process's place among `world` processes, and its device.

    `control` carries flags and waiting (on the CPU, so that no GPU is waited for), `saving` the checkpoints that are
    written while training goes on; both None for one process.
    """

    rank: int
    world: int
    device: torch.device
    control: ProcessGroup | None = None
    saving: ProcessGroup | None = None

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

    def parallel(self, module: nn.Module, units: Iterable[nn.Module], sharded: bool) -> nn.Module:
        """The module with gradients averaged over processes in its backward pass (DDP).

        sharded: parameters, gradients and whatever is made of them later are dealt out over the processes, and each
        of `units` is gathered only while it computes (FSDP2).
        """
        if self.world == 1:
            return module
        if sharded:
            from torch.distributed.device_mesh import init_device_mesh
            from torch.distributed.fsdp import fully_shard

            mesh = init_device_mesh(self.device.type, (self.world,))
            for part in (*units, module):
                fully_shard(part, mesh=mesh)
            return module
        from torch.nn.parallel import DistributedDataParallel

        ids = [self.device] if self.device.type == "cuda" else None
        return DistributedDataParallel(module, device_ids=ids, gradient_as_bucket_view=True, broadcast_buffers=False)

    @contextmanager
    def accumulate(self, module: nn.Module, last: bool) -> Iterator[None]:
        """A backward pass of which only the last of a step needs the other processes."""
        if hasattr(module, "set_requires_gradient_sync"):
            module.set_requires_gradient_sync(last)
        if last or not hasattr(module, "no_sync"):
            yield
        else:
            with module.no_sync():
                yield

    def any(self, *here: bool) -> list[bool]:
        """For each flag, whether it is set on any process; the same answer on all."""
        if self.world == 1:
            return list(here)
        flags = torch.tensor(here, dtype=torch.int32)
        torch.distributed.all_reduce(flags, group=self.control)
        return (flags > 0).tolist()

    def from_main(self, job: Callable[[], T]) -> T:
        """What the job returns on the main process, which alone does it; its RequestError is raised on all."""
        if self.world == 1:
            return job()
        told: list[Any] = [None, None]
        if self.main:
            try:
                told[0] = job()
            except (RequestError, WorkError) as error:
                told[1] = error
        torch.distributed.broadcast_object_list(told, src=0, group=self.control)
        if told[1] is not None:
            raise told[1]
        return told[0]

    def least(self, value: int) -> int:
        """The smallest value of all processes."""
        if self.world == 1:
            return value
        found = torch.tensor(value)
        torch.distributed.all_reduce(found, torch.distributed.ReduceOp.MIN, group=self.control)
        return int(found)

    def total(self, values: Tensor) -> Tensor:
        """Sum over processes, the same on each."""
        if self.world > 1:
            torch.distributed.all_reduce(values)
        return values

    def spread(self, tensors: Iterable[Tensor]) -> None:
        """Overwrite tensors, whole ones, by those of the main process."""
        if self.world > 1:
            for tensor in tensors:
                torch.distributed.broadcast(tensor, src=0)

    def wait(self) -> None:
        """Return once every process has come here."""
        if self.world > 1:
            torch.distributed.barrier(group=self.control)


def whole(tensor: Tensor) -> Tensor:
    """A tensor gathered from its shards, on every process (all must call); any other tensor as it is."""
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


def pick_device(device: str) -> torch.device:
    """`auto` → cuda where there is one, else cpu; any other name is taken as it is, if the machine has it.

    A device without float64 (mps) is passed over for the CPU, with a warning.
    """
    if not re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", device):
        raise RequestError(f"unknown device {device!r}. Accepted: auto, cpu, cuda, cuda:N, mps")
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        chosen = torch.device(device)
        torch.empty(1, device=chosen)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0].split(". ")[0]
        raise RequestError(f"device {device!r} is not available here: {reason[:120]}") from None
    if chosen.type == "mps":
        warnings.warn("device 'mps' has no float64, which exact draws need: the CPU is used", stacklevel=1)
        return torch.device("cpu")
    return chosen


@contextmanager
def connect(device: str = "auto") -> Iterator[Dist]:
    """Join the processes torchrun started; alone without it."""
    world = _number("WORLD_SIZE", 1)
    if world == 1:
        yield Dist(0, 1, pick_device(device))
        return
    rank = _number("RANK")
    if device == "cuda" or (device == "auto" and torch.cuda.is_available()):
        device = f"cuda:{_own_gpu(_number('LOCAL_RANK'))}"
    chosen = pick_device(device)
    if chosen.type == "cuda":
        torch.cuda.set_device(chosen)
    try:
        _meet("nccl" if chosen.type == "cuda" else "gloo")
    except torch.distributed.DistError as error:
        where = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
        raise RequestError(
            f"the processes cannot meet at {where}: {str(error).splitlines()[0]}; "
            "choose a free port (MASTER_PORT, --master-port), or let torchrun find one with --standalone"
        ) from None
    try:
        # preparing a corpus, or validating on one process, keeps the others waiting for as long as it takes
        patience = timedelta(days=2)
        control, saving = (torch.distributed.new_group(backend="gloo", timeout=patience) for _ in range(2))
        yield Dist(rank, world, chosen, control, saving)
    finally:
        torch.distributed.destroy_process_group()


def restarts() -> int:
    """How often torchrun has started this machine's workers again."""
    return _number("TORCHELASTIC_RESTART_COUNT", 0)


def _meet(backend: str) -> None:
    """Start torch.distributed from the environment.

    torchrun keeps one store for all restarts of a machine's workers, and without a prefix of its own a worker that was
    started again may read where its peer of the life before had listened: its connection is refused.
    """
    from torch.distributed.rendezvous import rendezvous

    store, rank, world = next(iter(rendezvous("env://")))
    if os.environ.get("GROUP_WORLD_SIZE", "1") == "1":  # machines do not agree on the count
        store = torch.distributed.PrefixStore(f"start-{restarts()}", store)
    torch.distributed.init_process_group(backend, store=store, rank=rank, world_size=world)


def _number(name: str, default: int | None = None) -> int:
    """An environment variable that torchrun sets."""
    found = os.environ.get(name, "" if default is None else str(default))
    if not found.isdigit():
        raise RequestError(f"WORLD_SIZE says several processes, but {name} is {found!r}: start them with torchrun")
    return int(found)


def _own_gpu(local_rank: int) -> int:
    """This process's GPU. Refused on every process of a machine that has fewer GPUs than processes."""
    here, there = _number("LOCAL_WORLD_SIZE", local_rank + 1), torch.cuda.device_count()
    if here > there > 0:  # without any, the device itself is refused
        raise RequestError(
            f"{here} processes on a machine of {there} GPUs: "
            f"torchrun --nproc-per-node={there}, or --device cpu for none"
        )
    return local_rank
