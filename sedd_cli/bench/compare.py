"""Two ways to do the same work, run in turn in one process: medians, ratio, memory."""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from sedd_cli import __version__
from sedd_cli.errors import RequestError
from sedd_cli.system import allocator
from sedd_cli.system.events import Event, Finished, Progress

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class BenchOptions:
    """repeats: timed runs of each path, after one that is not counted."""

    repeats: int = 3

    def __post_init__(self) -> None:
        if self.repeats < 1:
            raise RequestError(f"repeats must be at least 1, found {self.repeats}")


def compare(
    name: str,
    paths: dict[str, Callable[[], int | Generator[Progress, None, int]]],
    options: BenchOptions,
    facts: dict[str, Any],
    device: str = "cpu",
    steady: bool = False,
) -> Iterator[Event]:
    """Time the paths in turn, A B A B …; every path returns the tokens it made, and all must agree. A long one may
    yield its progress.

    The last event is Finished: rates of each path (the first one, ours, is the fast one), their ratio, and the memory
    that the first, uncounted run of each took beyond what the process held when it began. Ours runs as all our
    commands do, the others with the C library's own ways with memory. steady: each runs once more before it is timed,
    as in the middle of a long run.
    """
    import torch

    from sedd_cli.system.memory import begin_peak, held, peak

    where = torch.device(device)
    rates: dict[str, list[float]] = {path: [] for path in paths}
    memory: dict[str, float] = dict.fromkeys(paths, 0.0)
    made = set()
    rounds = options.repeats + 1
    for number in range(rounds):
        for place, (path, run) in enumerate(paths.items()):
            now = Progress(f"bench {name}", number * len(paths) + place, rounds * len(paths), "runs", {"now": path})
            yield now
            with allocator.as_by_default() if place else nullcontext():
                if number == 0:
                    begin_peak(where)
                    before = held(where)
                elif steady:
                    run()
                wait(where)
                began = time.perf_counter()
                outcome = run()
                made.add(tokens := (yield from _within(now, outcome)) if isinstance(outcome, Generator) else outcome)
                wait(where)
                seconds = time.perf_counter() - began
            if number:
                rates[path].append(tokens / seconds)
            else:
                memory[path] = (peak(where) - before) / 2**20
    yield Progress(f"bench {name}", rounds * len(paths), rounds * len(paths), "runs")
    if len(made) != 1:
        raise AssertionError(f"the paths disagree on the number of tokens: {sorted(made)}")
    fast, plain = (statistics.median(rates[path]) for path in paths)
    found = {
        path: {"tokens_per_second": statistics.median(r), "runs": r, "extra_mib": memory[path]}
        for path, r in rates.items()
    }
    machine = {
        "machine": platform.machine(),
        "device": torch.cuda.get_device_name(where) if where.type == "cuda" else "cpu",
        "processors": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "sedd": __version__,
    }
    yield Finished({"bench": name, "tokens": made.pop(), "paths": found, "ratio": fast / plain, **facts, **machine})


def wait(device: torch.device) -> None:
    """Until a GPU has done what it was told."""
    if device.type == "cuda":
        import torch

        torch.cuda.synchronize(device)


def _within(now: Progress, work: Generator[Progress, None, int]) -> Generator[Progress, None, int]:
    """A run's own progress as a figure of the bench's."""
    while True:
        try:
            step = next(work)
        except StopIteration as end:
            return end.value
        yield replace(now, figures=now.figures | {step.unit: f"{step.done:,} of {step.total:,}"})
