"""Choice of mixed precision. `auto` is bf16 where the device computes it natively; `bf16` is bf16 on any device."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from sedd_cli.errors import RequestError, not_one_of

PRECISIONS = ("auto", "bf16", "tf32", "fp32")


def native_bf16(device: torch.device) -> bool:
    """Whether matrix products in bfloat16 run on the device's own units (AMX or AVX512-BF16 on a CPU).

    With AVX512-BF16 alone (AMD EPYC, family 26) float32 products take 4.4 times the processor time of bfloat16 ones.
    """
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    return device.type == "cpu" and (_cpu_has("amx_tile") or _cpu_has("avx512_bf16"))


def bf16_without_amx() -> bool:
    """Whether the CPU multiplies bfloat16 natively, but not float32 numbers as if they were rounded to it.

    oneDNN rounds the factors of float32 products that allow it (`models.head`) with AMX only; its float32 kernel takes
    half the time of torch's, and twice that of bfloat16.
    """
    return _cpu_has("avx512_bf16") and not _cpu_has("amx_tile")


def _cpu_has(unit: str) -> bool:
    return getattr(torch.cpu, f"_is_{unit}_supported", bool)()


def precision_name(autocast: bool, device: torch.device) -> str:
    """bf16, tf32 or fp32: what a network computes its products in now."""
    tf32 = device.type == "cuda" and torch.backends.cuda.matmul.allow_tf32
    return "bf16" if autocast else "tf32" if tf32 else "fp32"


def autocast_dtype(precision: str, device: torch.device) -> torch.dtype | None:
    """`auto | bf16 | tf32 | fp32` → the dtype of autocast, None for none.

    On a GPU this also sets, for the whole process, whether float32 products may round their factors to TF32: only with
    `tf32`.
    """
    if precision not in PRECISIONS:
        raise RequestError(not_one_of("precision", PRECISIONS, precision))
    if precision == "tf32" and not (device.type == "cuda" and native_bf16(device)):
        raise RequestError(f"precision tf32 needs a GPU of compute capability 8.0 or newer, the device is {device}")
    if device.type == "cuda":
        torch.backends.cuda.matmul.allow_tf32 = precision == "tf32"
    if precision == "bf16" or (precision == "auto" and native_bf16(device)):
        return torch.bfloat16
    return None


@contextmanager
def full_float32() -> Iterator[None]:
    """Float32 products do not round their factors inside, whatever `autocast_dtype` has set for the process."""
    matmul = torch.backends.cuda.matmul
    before, matmul.allow_tf32 = matmul.allow_tf32, False
    try:
        yield
    finally:
        matmul.allow_tf32 = before
