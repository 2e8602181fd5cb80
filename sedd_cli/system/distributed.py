"""The calls that many processes need; with one process they do nothing.

torchrun sets the environment that `connect` reads. The training loop is the same for any number of processes.
"""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar, cast

import torch
from torch import Tensor, nn

from sedd_cli.errors import RequestError, WorkError, of_this_process

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup


T = TypeVar("T")


@dataclass(frozen=True)
class Dist:
    """This process's rank among `world` processes, and its device.

    The group `control` exchanges flags and waits, on the CPU so that it does not synchronise with GPUs; the group
    `saving` writes checkpoints while training continues. Both are None for one process.
    """

    rank: int
    world: int
    device: torch.device
    control: ProcessGroup | None = None
    saving: ProcessGroup | None = None

    @property
    def main(self) -> bool:
        """Whether this is the process that writes and prints."""
        return self.rank == 0

    def share(self, batch: int) -> range:
        """The rows of a global batch that this process computes."""
        if batch % self.world:
            raise RequestError(f"train.batch ({batch}) must be a multiple of the number of processes ({self.world})")
        each = batch // self.world
        return range(self.rank * each, (self.rank + 1) * each)

    def parallel(self, module: nn.Module, units: Iterable[nn.Module], sharded: bool) -> nn.Module:
        """Average the module's gradients over processes in its backward pass.

        Args:
            module: The module to wrap.
            units: With `sharded`, submodules that are gathered only while they compute.
            sharded: Shard parameters, gradients and all that is created from them (FSDP2) instead of DDP.
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
        with warnings.catch_warnings():  # newer versions of torch have another name for broadcast_buffers
            warnings.filterwarnings("ignore", message=".*broadcast_buffers")
            return DistributedDataParallel(
                module, device_ids=ids, gradient_as_bucket_view=True, broadcast_buffers=False
            )

    @contextmanager
    def accumulate(self, module: nn.Module, last: bool) -> Iterator[None]:
        """Synchronise gradients only in the last backward pass of a step."""
        wrapped: Any = module
        if hasattr(wrapped, "set_requires_gradient_sync"):
            wrapped.set_requires_gradient_sync(last)
        if last or not hasattr(wrapped, "no_sync"):
            yield
        else:
            with wrapped.no_sync():
                yield

    def any(self, *here: bool) -> list[bool]:
        """For each flag, whether it is set on any process; the same result on all."""
        if self.world == 1:
            return list(here)
        flags = torch.tensor(here, dtype=torch.int32)
        torch.distributed.all_reduce(flags, group=self.control)
        return (flags > 0).tolist()

    def from_main(self, job: Callable[[], T]) -> T:
        """Run the job on the main process only; its result or its RequestError or WorkError reaches all."""
        if self.world == 1:
            return job()
        shared: list[Any] = [None, None]
        if self.main:
            try:
                shared[0] = job()
            except (RequestError, WorkError) as error:
                shared[1] = error
        torch.distributed.broadcast_object_list(shared, src=0, group=self.control)
        if shared[1] is not None:
            raise shared[1]
        return shared[0]

    def least(self, value: int) -> int:
        """The minimum over processes."""
        if self.world == 1:
            return value
        found = torch.tensor(value)
        torch.distributed.all_reduce(found, torch.distributed.ReduceOp.MIN, group=self.control)
        return int(found)

    def total(self, values: Tensor) -> Tensor:
        """The sum over processes, in place; the same on each."""
        if self.world > 1:
            torch.distributed.all_reduce(values)
        return values

    def broadcast(self, tensors: Iterable[Tensor]) -> None:
        """Overwrite unsharded tensors by those of the main process."""
        if self.world > 1:
            for tensor in tensors:
                torch.distributed.broadcast(tensor, src=0)

    def wait(self) -> None:
        """Return once all processes have called this."""
        if self.world > 1:
            torch.distributed.barrier(group=self.control)


def whole(tensor: Tensor) -> Tensor:
    """Gather a sharded tensor on every process (all must call); other tensors are returned as they are."""
    gather = getattr(tensor, "full_tensor", None)
    return gather() if gather else tensor


def pick_device(device: str) -> torch.device:
    """The device of that name; `auto` is cuda if available, else cpu.

    mps is replaced by the CPU with a warning, because it has no float64. RequestError if there is no such device.
    """
    if not re.fullmatch(r"auto|cpu|mps|cuda(:[0-9]{1,4})?", device):
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
    """Join the process group that torchrun started; without torchrun, a group of one."""
    world = _number("WORLD_SIZE", 1)
    if world == 1:
        yield Dist(0, 1, pick_device(device))
        return
    rank = _number("RANK")
    if device.startswith("cuda:"):
        raise RequestError(
            f"--device {device} is one GPU, and there are {world} processes: --device cuda gives each its own; "
            "CUDA_VISIBLE_DEVICES chooses among them"
        )
    if device == "cuda" or (device == "auto" and torch.cuda.is_available()):
        device = f"cuda:{_own_gpu(_number('LOCAL_RANK'))}"
    chosen = pick_device(device)
    if chosen.type == "cuda":
        torch.cuda.set_device(chosen)
    try:
        _init_process_group("nccl" if chosen.type == "cuda" else "gloo")
    except torch.distributed.DistError as error:
        where = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
        raise RequestError(
            f"the processes cannot connect at {where}: {str(error).splitlines()[0]}; "
            "choose a free port (MASTER_PORT, --master-port), or let torchrun find one with --standalone"
        ) from None
    try:
        # while one process prepares a corpus or validates, the others wait for as long as it takes
        timeout = timedelta(days=2)
        control, saving = (torch.distributed.new_group(backend="gloo", timeout=timeout) for _ in range(2))
        yield Dist(rank, world, chosen, cast("ProcessGroup", control), cast("ProcessGroup", saving))
    except BaseException:
        # NCCL shuts down only with all processes, and the others may be waiting for this one: it has to end first
        if chosen.type != "cuda":
            torch.distributed.destroy_process_group()
        raise
    torch.distributed.destroy_process_group()


def restarts() -> int:
    """How many times torchrun has restarted the workers of this machine."""
    return _number("TORCHELASTIC_RESTART_COUNT", 0)


def _init_process_group(backend: str) -> None:
    """Start torch.distributed from the environment.

    torchrun keeps one store for all restarts. Without a prefix per restart, a worker may read the address of a peer
    from before the restart, and its connection is refused.
    """
    from torch.distributed.distributed_c10d import PrefixStore
    from torch.distributed.rendezvous import rendezvous

    store, rank, world = next(iter(rendezvous("env://")))
    if os.environ.get("GROUP_WORLD_SIZE", "1") == "1":  # several machines may count restarts differently
        store = PrefixStore(f"start-{restarts()}", store)
    torch.distributed.init_process_group(backend, store=store, rank=rank, world_size=world)


def _number(name: str, default: int | None = None) -> int:
    """An environment variable that torchrun sets."""
    found = os.environ.get(name, "" if default is None else str(default))
    if not (found.isascii() and found.isdecimal()):
        raise RequestError(f"WORLD_SIZE is more than 1, but {name} is {found!r}: start the processes with torchrun")
    return int(found)


def _own_gpu(local_rank: int) -> int:
    """The index of this process's GPU; RequestError on all processes of a machine with fewer GPUs than processes."""
    here, there = _number("LOCAL_WORLD_SIZE", local_rank + 1), torch.cuda.device_count()
    if here > there > 0:  # with no GPU at all, `pick_device` refuses
        raise of_this_process(
            RequestError(
                f"{here} processes on a machine of {there} GPUs: "
                f"torchrun --nproc-per-node={there}, or --device cpu for none"
            )
        )
    return local_rank
