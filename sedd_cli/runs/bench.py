"""Fast paths against plain ones: run in turn in one process, medians, ratio, memory."""

from __future__ import annotations

import itertools
import platform
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sedd_cli import __version__
from sedd_cli.errors import RequestError
from sedd_cli.runs.datasets import PrepareOptions
from sedd_cli.runs.events import Event, Finished, Note, Progress
from sedd_cli.text.corpora import find_corpus
from sedd_cli.text.encode import encode_stream
from sedd_cli.text.loader import Loader
from sedd_cli.text.manifest import ShardInfo, SplitInfo
from sedd_cli.text.shards import TokenArray
from sedd_cli.text.tokenizers import Tokenizer, load_tokenizer, needs_training
from sedd_cli.text.writer import SplitWriter


@dataclass(frozen=True)
class BenchOptions:
    """repeats: timed runs of each path, after one that is not counted."""

    repeats: int = 3

    def __post_init__(self) -> None:
        if self.repeats < 1:
            raise RequestError(f"repeats must be at least 1, found {self.repeats}")


@dataclass(frozen=True)
class PrepareBench(BenchOptions):
    """Encode `megabytes` of a corpus (read again from the start where it is shorter) with so many workers."""

    corpus: str = "pydocs"
    tokenizer: str = "gpt2"
    megabytes: float = 64.0
    workers: int = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.megabytes > 0 or self.workers < 1:
            raise RequestError(f"megabytes and workers must be positive, found {self.megabytes} and {self.workers}")
        if needs_training(self.tokenizer):
            raise RequestError(f"tokenizer {self.tokenizer!r} has to be trained first; name a ready one, such as gpt2")


@dataclass(frozen=True)
class LoaderBench(BenchOptions):
    """Read batches of `batch` blocks of `length` from random tokens in a warm memory map."""

    length: int = 1024
    batch: int = 64
    tokens: int = 2**26
    repeats: int = 9

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.length * self.batch <= self.tokens:
            raise RequestError(f"length·batch must lie between 1 and {self.tokens}, found {self.length * self.batch}")


def bench_prepare(options: PrepareBench) -> Iterator[Event]:
    """`sedd prepare`'s encoding, hashing and writing against `datasets.map` around one document at a time."""
    source = find_corpus(request := PrepareOptions(corpus=options.corpus)).open(request)
    tokenizer = load_tokenizer(options.tokenizer)
    read = source.splits[next(iter(source.splits))]

    def documents() -> Iterator[str]:
        characters = 0
        for text in itertools.chain.from_iterable(read() for _ in itertools.count()):
            yield text
            characters += len(text)
            if characters >= options.megabytes * 1e6:
                return

    with tempfile.TemporaryDirectory(prefix="sedd-bench-") as folder:
        yield Note(f"{options.megabytes:g} MB of {options.corpus}, {tokenizer.spec}, {options.workers} workers")
        dataset = _arrow(documents, Path(folder))
        paths = {
            "sedd prepare": lambda: encode_to_shards(documents(), tokenizer, options.workers, Path(folder)),
            "datasets.map": lambda: encode_by_map(dataset, tokenizer, options.workers),
        }
        yield from _compare("prepare", paths, options, {"target ratio": 1.5, "workers": options.workers})


def encode_to_shards(documents: Iterator[str], tokenizer: Tokenizer, workers: int, folder: Path) -> int:
    """The fast path: what prepare does with a split. Returns the number of tokens."""
    with tempfile.TemporaryDirectory(dir=folder) as shards:
        writer = SplitWriter(Path(shards), "train", "uint16" if tokenizer.vocab_size <= 1 << 16 else "uint32")
        for group in encode_stream(documents, tokenizer, str, workers):
            writer.append(group)
        return writer.finish().tokens


def encode_by_map(dataset: Any, tokenizer: Tokenizer, workers: int) -> int:
    """The plain path: a function of one document, mapped over an Arrow dataset by processes."""
    ids_of = _plain_encoder(tokenizer)

    def encode(row: dict[str, str]) -> dict[str, Any]:
        ids = ids_of(row["text"]) + ([] if tokenizer.eos is None else [tokenizer.eos])
        return {"ids": ids, "length": len(ids)}

    mapped = dataset.map(
        encode,
        remove_columns=["text"],
        num_proc=workers,
        load_from_cache_file=False,
        new_fingerprint=str(time.time_ns()),
    )
    return sum(mapped["length"])


def _plain_encoder(tokenizer: Tokenizer) -> Callable[[str], list[int]]:
    """What a preparation script would call: tiktoken's own function where the tokenizer is one of tiktoken's."""
    import tiktoken

    if tokenizer.spec in tiktoken.list_encoding_names():
        return tiktoken.get_encoding(tokenizer.spec).encode_ordinary
    return tokenizer.encode


def _arrow(documents: Callable[[], Iterator[str]], folder: Path) -> Any:
    import datasets

    datasets.disable_progress_bars()
    return datasets.Dataset.from_generator(
        lambda: ({"text": text} for text in documents()), cache_dir=str(folder), fingerprint="bench"
    )


def bench_loader(options: LoaderBench) -> Iterator[Event]:
    """The loader's batches against a loop that cuts one block at a time."""
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
        yield from _compare("loader", paths, options, {"target tokens/s": 20_000_000})


def _compare(
    name: str, paths: dict[str, Callable[[], int]], options: BenchOptions, facts: dict[str, Any]
) -> Iterator[Event]:
    """Time the paths in turn, A B A B …; every path returns the tokens it made, and all must agree."""
    rates: dict[str, list[float]] = {path: [] for path in paths}
    memory: dict[str, float] = dict.fromkeys(paths, 0.0)
    made = set()
    rounds = options.repeats + 1
    for number in range(rounds):
        for place, (path, run) in enumerate(paths.items()):
            yield Progress(f"bench {name}", number * len(paths) + place, rounds * len(paths), "runs", {"now": path})
            with _peak_memory() as peak:
                began = time.perf_counter()
                tokens = run()
                seconds = time.perf_counter() - began
            made.add(tokens)
            if number:
                rates[path].append(tokens / seconds)
                memory[path] = max(memory[path], peak[0])
    yield Progress(f"bench {name}", rounds * len(paths), rounds * len(paths), "runs")
    if len(made) != 1:
        raise AssertionError(f"the paths disagree on the number of tokens: {sorted(made)}")
    fast, plain = (statistics.median(rates[path]) for path in paths)
    found = {
        path: {"tokens_per_second": statistics.median(r), "runs": r, "peak_mib": memory[path] or None}
        for path, r in rates.items()
    }
    machine = {"machine": platform.machine(), "processors": _processors(), "sedd": __version__}
    yield Finished({"bench": name, "tokens": made.pop(), "paths": found, "ratio": fast / plain, **facts, **machine})


@contextmanager
def _peak_memory() -> Iterator[list[float]]:
    """The highest resident size of this process in MiB while the block runs, sampled; 0 where /proc is missing."""
    status, peak, over = Path("/proc/self/statm"), [0.0], threading.Event()

    def watch() -> None:
        while not over.wait(0.02):
            peak[0] = max(peak[0], int(status.read_text().split()[1]) * 4096 / 2**20)

    if not status.exists():
        yield peak
        return
    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield peak
    finally:
        over.set()
        thread.join()


def _processors() -> int:
    import os

    return os.cpu_count() or 1
