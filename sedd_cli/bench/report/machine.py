"""The machine: versions, device, memory, peak of matrix products, bandwidth of copies."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from collections.abc import Generator
from contextlib import suppress
from pathlib import Path

import torch

from sedd_cli import __version__
from sedd_cli.bench.report.measurement import Figure, Setting
from sedd_cli.models.precision import native_bf16
from sedd_cli.system.events import Event
from sedd_cli.system.memory import free_memory, total_memory
from sedd_cli.training.flops import known_peak

#: Packages whose versions are reported, if they are installed.
PACKAGES = ("torch", "triton", "flash-attn", "numpy", "nvidia-cudnn-cu12", "nvidia-cudnn-cu13")


def machine(setting: Setting) -> Generator[Figure | Event, None, None]:
    """Software, hardware, and the two rates that limit everything."""
    device = setting.device
    yield Figure("sedd", __version__)
    yield Figure("python", platform.python_version())
    for name in PACKAGES:
        with suppress(importlib.metadata.PackageNotFoundError):
            yield Figure(name, importlib.metadata.version(name))
    yield Figure("system", platform.platform())
    yield Figure("processor", _processor(), note=f"{os.cpu_count()} cores, {torch.get_num_threads()} threads")
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        major, minor = torch.cuda.get_device_capability(device)
        yield Figure("device", properties.name, note=f"{properties.multi_processor_count} multiprocessors")
        yield Figure("compute capability", f"{major}.{minor}")
        yield Figure("CUDA", str(torch.version.cuda), note=f"cuDNN {torch.backends.cudnn.version()}")
        with suppress(OSError):
            yield Figure("driver", Path("/proc/driver/nvidia/version").read_text().splitlines()[0])
    yield Figure("memory", total_memory(device) / 2**30, "GiB", note=f"{free_memory(device) / 2**30:.1f} GiB free")
    yield Figure("native bf16", "yes" if native_bf16(device) else "no")
    known = known_peak(device)
    kind = "bf16" if native_bf16(device) else "float32"
    yield Figure(f"{kind} peak of matrix products", setting.peak / 1e12, "TFLOP/s", baseline=known and known / 1e12,
                 note="baseline: data sheet" if known else "")  # fmt: skip
    size = 2**30 if setting.cuda() else 2**28
    source = torch.zeros(size, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    seconds = setting.median(lambda: target.copy_(source), repeats=9)
    yield Figure("bandwidth of a copy", 2 * size / seconds / 1e9, "GB/s", note="bytes read and written")
    if setting.cuda():
        host = torch.zeros(2**28, dtype=torch.uint8).pin_memory()
        seconds = setting.median(lambda: target[: 2**28].copy_(host, non_blocking=True), repeats=5)
        yield Figure("bandwidth from pinned host memory", 2**28 / seconds / 1e9, "GB/s")


def _processor() -> str:
    with suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return platform.processor() or platform.machine()
