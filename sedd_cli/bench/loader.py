"""The bench of the data loader."""

from __future__ import annotations

import tempfile
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sedd_cli.bench.compare import BenchOptions, BenchResult, compare
from sedd_cli.data.loader import Loader
from sedd_cli.data.manifest import ShardInfo, SplitInfo
from sedd_cli.data.shards import TokenArray
from sedd_cli.errors import RequestError
from sedd_cli.system.events import Event


@dataclass(frozen=True)
class LoaderBenchOptions(BenchOptions):
    """Batches of `batch` blocks of `length` tokens, from `tokens` random ones."""

    length: int = 1024
    batch: int = 64
    tokens: int = 2**26
    repeats: int = 9

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.length * self.batch <= self.tokens:
            raise RequestError(f"length·batch must lie between 1 and {self.tokens}, found {self.length * self.batch}")


def bench_loader(options: LoaderBenchOptions) -> Generator[Event, None, BenchResult]:
    """Batches of the loader from a warm memory map, against a loop over blocks."""
    with tempfile.TemporaryDirectory(prefix="sedd-bench-") as folder:
        generator = np.random.default_rng(0)
        generator.integers(0, 50257, options.tokens, dtype=np.uint16).tofile(Path(folder) / "tokens.bin")
        shard = ShardInfo("tokens.bin", options.tokens, "", "", 0, "")
        split = TokenArray(Path(folder), "train", SplitInfo(0, options.tokens, 0, 0, 0, (shard,)), "uint16")
        loader = Loader(split, options.length, options.batch, seed=0)
        steps = max(1, options.tokens // (options.batch * options.length))

        def fast() -> int:
            return sum(loader.batch(step).size for step in range(steps))

        def plain() -> int:
            size = 0
            for step in range(steps):
                starts = loader.starts(np.arange(step * options.batch, (step + 1) * options.batch))
                size += np.stack([split.read(int(s), int(s) + options.length) for s in starts]).size
            return size

        paths = {"loader": fast, "block by block": plain}
        return (yield from compare("loader", paths, options, {}))
