"""What a measurement of the report is: figures, their setting, sizes for a device, timing."""

from __future__ import annotations

import dataclasses
import gc
import math
import statistics
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from sedd_cli.bench.model import ModelBenchOptions, matmul_peak
from sedd_cli.errors import RequestError, WorkError, first_line, out_of_memory
from sedd_cli.models.dit import DiT
from sedd_cli.models.timing import synchronize
from sedd_cli.recipe import Recipe
from sedd_cli.system.events import Event
from sedd_cli.system.memory import free_memory
from sedd_cli.training.state import BYTES_A_PARAMETER

if TYPE_CHECKING:
    import torch

#: Shares of the measured peak that estimates of time assume, for our code and for plain float32 code.
SHARE, PLAIN_SHARE = 0.1, 0.02
#: Seconds that compiling the blocks takes, by type of device.
COMPILING = {"cpu": 60.0, "cuda": 60.0}


class SkippedError(Exception):
    """A measurement that is not possible here; the message is the reason."""


class Overrun(BaseException):
    """A measurement took longer than its share of the time. Not an Exception: no handler of failures may catch it."""


@dataclass(frozen=True)
class Figure:
    """A measured value.

    baseline: the same of the plain path, in the same unit. tolerance: of a check, whose value is a difference.
    table: the table it belongs to; "" is that of its measurement.
    """

    what: str
    value: float | str
    unit: str = ""
    baseline: float | None = None
    tolerance: float | None = None
    note: str = ""
    table: str = ""

    @property
    def ratio(self) -> float | None:
        """The value over its baseline."""
        return float(self.value) / self.baseline if self.baseline else None

    @property
    def passed(self) -> bool | None:
        """Whether a check holds; None for other figures. A difference that is not a number fails."""
        return None if self.tolerance is None else bool(float(self.value) <= self.tolerance)

    def to_dict(self) -> dict[str, Any]:
        """As in the JSON document; numbers that are not finite as text."""
        found = dataclasses.asdict(self) | {"ratio": self.ratio, "passed": self.passed}
        return {
            key: str(value) if isinstance(value, float) and not math.isfinite(value) else value
            for key, value in found.items()
            if value not in (None, "")
        }


@dataclass(frozen=True)
class Sizes:
    """Batches and counts that suit a device.

    train: micro-batches that are tried; plain: batches of the plain path, the first that fits counts; check: length of
    the sequences of checks; attention: batch of timed attention.
    """

    train: tuple[int, ...]
    plain: tuple[int, ...]
    loss: int
    sample: tuple[int, ...]
    steps: tuple[int, int]
    likelihood: int
    check: int
    attention: int


SIZES = {
    "cuda": Sizes((1, 2, 4, 8, 16, 32, 64, 128, 256), (8, 2), 16, (1, 8, 64), (64, 1024), 16, 256, 8),
    "cpu": Sizes((1, 2, 4, 8), (2, 1), 1, (1, 8), (16, 64), 2, 32, 1),
}


@dataclass
class Setting:
    """What the measurements share. until: when the running one should end, as `time.monotonic` counts."""

    recipe: Recipe
    larger: Recipe
    device: torch.device
    sizes: Sizes
    until: float = math.inf

    @cached_property
    def peak(self) -> float:
        """The measured FLOP/s of products, in bf16 where it is native, else in float32."""
        return matmul_peak(self.device)

    def left(self) -> float:
        """Seconds that the running measurement has left."""
        return self.until - time.monotonic()

    def seconds(self, flops: float, share: float = SHARE) -> float:
        """A pessimistic estimate of the time of some work."""
        return flops / (self.peak * share)

    def bench(self, recipe: Recipe, batch: int) -> ModelBenchOptions:
        """A recipe with random tokens on the device."""
        return ModelBenchOptions(recipe=recipe, batch=batch, device=str(self.device))

    def cuda(self) -> bool:
        """Whether the device is an NVIDIA GPU."""
        return self.device.type == "cuda"

    def median(self, work: Callable[[], object], repeats: int = 3) -> float:
        """Median seconds of a call after an untimed one; at least one is timed, no more once the time is over."""
        work()
        times: list[float] = []
        while len(times) < repeats and not (times and self.left() < times[-1]):
            synchronize(self.device)
            began = time.perf_counter()
            work()
            synchronize(self.device)
            times.append(time.perf_counter() - began)
        return statistics.median(times)


#: Yields figures as they are known, and progress.
Work = Callable[[Setting], Generator["Figure | Event", None, None]]


@dataclass(frozen=True)
class Measurement:
    """A part of the report.

    seconds: estimate of the time until it has its first useful figures. share: fraction of the whole time that it may
    take at most. memory: bytes that it needs.
    """

    name: str
    table: str
    work: Work
    seconds: Callable[[Setting], float]
    share: float = 0.2
    memory: Callable[[Setting], float] = lambda setting: 0.0


def parameters(recipe: Recipe, vocab_size: int) -> int:
    """Number of parameters of a recipe's network."""
    return sum(p.numel() for p in DiT.empty(recipe.model, vocab_size + 1).parameters())


def networks_memory(setting: Setting, count: int = 2) -> float:
    """Bytes of the recipe's network so many times in float32, with a gibibyte for what is computed."""
    return 4 * count * parameters(setting.recipe, setting.bench(setting.recipe, 1).vocab_size()) + 2**30


def training_memory(setting: Setting, recipe: Recipe) -> float:
    """Bytes of weights, gradients, moments and averages, with a gibibyte for one sequence."""
    return BYTES_A_PARAMETER * parameters(recipe, setting.bench(recipe, 1).vocab_size()) + 2**30


def lacks(setting: Setting, needed: float) -> str:
    """Why some work does not fit into memory; "" if it does."""
    free = free_memory(setting.device)
    return "" if needed <= free else f"needs about {needed / 2**30:.1f} GiB of memory, {free / 2**30:.1f} GiB are free"


def release(setting: Setting) -> None:
    """Give freed memory back to the device."""
    gc.collect()
    if setting.cuda():
        import torch

        torch.cuda.empty_cache()


def line_of(error: BaseException) -> str:
    """One line on an error."""
    if out_of_memory(error):
        return "not enough memory"
    known = isinstance(error, RequestError | WorkError | SkippedError)
    return str(error) if known else f"{type(error).__name__}: {first_line(error)}"
