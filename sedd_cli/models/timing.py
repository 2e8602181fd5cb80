"""The time after the work that is queued on a device."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def synchronize(device: torch.device) -> None:
    """Wait for the work queued on a GPU."""
    if device.type == "cuda":
        import torch

        torch.cuda.synchronize(device)


def now(device: torch.device) -> float:
    """`time.perf_counter` once the work queued on a GPU is done."""
    synchronize(device)
    return time.perf_counter()
