"""Memory of a device: peak, current, total and free."""

from __future__ import annotations

import os
import resource
import sys
from contextlib import suppress
from pathlib import Path

import torch

from sedd_cli.system import allocator


def begin_peak(device: torch.device) -> None:
    """Reset the peak, where the system allows it (GPU, Linux)."""
    allocator.give_back()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def peak(device: torch.device) -> int:
    """Peak bytes of tensors on a GPU, or of the process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    with suppress(OSError, ValueError, StopIteration):
        return _kilobytes("/proc/self/status", "VmHWM") * 1024
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def used_memory(device: torch.device) -> int:
    """Current bytes of tensors on a GPU, or of the process on a CPU (0 if unknown)."""
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device)
    with suppress(OSError, ValueError, StopIteration):
        return _kilobytes("/proc/self/status", "VmRSS") * 1024
    return 0


def total_memory(device: torch.device) -> int:
    """Total bytes of the device; on a CPU within the limit of the control group."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    return min(_limits() or [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")])


def free_memory(device: torch.device) -> int:
    """Bytes that can be allocated without swapping."""
    if device.type == "cuda":
        return (
            torch.cuda.mem_get_info(device)[0]
            + torch.cuda.memory_reserved(device)
            - torch.cuda.memory_allocated(device)
        )
    with suppress(OSError, ValueError, StopIteration):
        available = _kilobytes("/proc/meminfo", "MemAvailable") * 1024
        return min([available, *(limit - used for limit in _limits() for used in _used_by_group())])
    return total_memory(device) // 2


def _used_by_group() -> list[int]:
    """Bytes that the control group uses, without the cached pages of files, which it gives back; empty if unknown."""
    group = Path("/sys/fs/cgroup")
    with suppress(OSError, ValueError, KeyError):
        entries = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        cached = int(entries["inactive_file"]) + int(entries["active_file"])
        return [int((group / "memory.current").read_text()) - cached]
    return []


def _kilobytes(path: str, key: str) -> int:
    return int(next(line for line in Path(path).read_text().splitlines() if line.startswith(key)).split()[1])


def _limits() -> list[int]:
    """The memory of the machine and the limit of the control group, if they can be read."""
    found = []
    with suppress(OSError, ValueError):
        found.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    with suppress(OSError, ValueError):
        found.append(int(Path("/sys/fs/cgroup/memory.max").read_text()))
    return found
