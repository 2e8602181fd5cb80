"""Ways to do the same work, run in turn in one process: medians, ratio, memory."""

from __future__ import annotations

import os
import platform
import statistics
from collections.abc import Callable, Generator, Mapping
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

from sedd_cli import __version__
from sedd_cli.errors import RequestError
from sedd_cli.models.timing import now as clock
from sedd_cli.system import allocator
from sedd_cli.system.events import Event, Progress, map_events

if TYPE_CHECKING:
    import torch

#: A path returns the number of tokens it made. A long one may be a generator that yields its progress.
Path = Callable[[], "int | Generator[Progress, None, int]"]


@dataclass(frozen=True)
class BenchOptions:
    """repeats: timed runs of each path, after a warm-up run."""

    repeats: int = 3

    def __post_init__(self) -> None:
        if self.repeats < 1:
            raise RequestError(f"repeats must be at least 1, found {self.repeats}")


@dataclass(frozen=True)
class PathResult:
    """The rates of a path.

    tokens_per_second: their median. extra_mib: peak memory of the warm-up run beyond what was allocated before it.
    details: further metrics of a bench.
    """

    tokens_per_second: float
    runs: list[float]
    extra_mib: float
    details: dict[str, float | bool] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        rates = {"tokens_per_second": self.tokens_per_second, "runs": self.runs, "extra_mib": self.extra_mib}
        return rates | self.details


@dataclass(frozen=True)
class Machine:
    """Where a bench ran."""

    machine: str
    device: str
    processors: int | None
    threads: int
    torch: str
    sedd: str

    @classmethod
    def here(cls, device: torch.device) -> Machine:
        """This machine."""
        import torch

        name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
        threads = torch.get_num_threads()
        return cls(platform.machine(), name, os.cpu_count(), threads, torch.__version__, __version__)


@dataclass(frozen=True)
class BenchResult:
    """The result of a bench. ratio: the rate of the first path over that of the second. facts: what was measured."""

    bench: str
    tokens: int
    paths: dict[str, PathResult]
    ratio: float
    facts: dict[str, Any]
    machine: Machine

    def to_dict(self) -> dict[str, Any]:
        """The JSON document of `sedd bench`."""
        paths = {name: path.to_dict() for name, path in self.paths.items()}
        head = {"bench": self.bench, "tokens": self.tokens, "paths": paths, "ratio": self.ratio}
        return head | self.facts | asdict(self.machine)

    def with_details(self, details: Mapping[str, Mapping[str, float | bool]], **facts: Any) -> BenchResult:
        """The result with further metrics of its paths, and further facts."""
        paths = {name: replace(p, details=p.details | dict(details.get(name, {}))) for name, p in self.paths.items()}
        return replace(self, paths=paths, facts=self.facts | facts)


def compare(
    name: str,
    paths: Mapping[str, Path],
    options: BenchOptions,
    facts: dict[str, Any],
    device: str = "cpu",
    steady: bool = False,
) -> Generator[Event, None, BenchResult]:
    """Time paths in turn, A B A B …; all must return the same number of tokens.

    The first path is the fast one, the ratio is that to the second. The first runs with the allocator settings of our
    commands, the others with the defaults of the C library. steady: an untimed run precedes each timed one, as in the
    middle of a long job.
    """
    import torch

    from sedd_cli.system.memory import begin_peak, peak, used_memory

    where = torch.device(device)
    rates: dict[str, list[float]] = {path: [] for path in paths}
    memory: dict[str, float] = dict.fromkeys(paths, 0.0)
    tokens_made = set()
    rounds = options.repeats + 1
    for number in range(rounds):
        for place, (path, run) in enumerate(paths.items()):
            now = Progress(f"bench {name}", number * len(paths) + place, rounds * len(paths), "runs", {"now": path})
            yield now
            with allocator.as_by_default() if place else nullcontext():
                before = 0
                if number == 0:
                    begin_peak(where)
                    before = used_memory(where)
                elif steady:
                    run()
                began = clock(where)
                outcome = run()
                tokens = (yield from _with_progress(now, outcome)) if isinstance(outcome, Generator) else outcome
                seconds = clock(where) - began
            tokens_made.add(tokens)
            if number:
                rates[path].append(tokens / seconds)
            else:
                memory[path] = (peak(where) - before) / 2**20
    yield Progress(f"bench {name}", rounds * len(paths), rounds * len(paths), "runs")
    if len(tokens_made) != 1:
        raise AssertionError(f"the paths disagree on the number of tokens: {sorted(tokens_made)}")
    found = {path: PathResult(statistics.median(r), r, memory[path]) for path, r in rates.items()}
    fast, plain, *_ = (path.tokens_per_second for path in found.values())
    return BenchResult(name, tokens_made.pop(), found, fast / plain, facts, Machine.here(where))


def _with_progress(now: Progress, work: Generator[Progress, None, int]) -> Generator[Event, None, int]:
    """Show the progress of a run within that of the bench."""

    def within(step: Progress) -> Progress:
        return replace(now, metrics=now.metrics | {step.unit: f"{step.done:,} of {step.total:,}"})

    return map_events(work, within)
