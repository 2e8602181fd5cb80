"""Benches of the text layer: tokenising and loading."""

from __future__ import annotations

import itertools
import os
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sedd_cli.bench.compare import BenchOptions, compare
from sedd_cli.data.corpora import find_corpus
from sedd_cli.data.encode import encode_stream
from sedd_cli.data.loader import Loader
from sedd_cli.data.manifest import ShardInfo, SplitInfo
from sedd_cli.data.prepared import PrepareOptions
from sedd_cli.data.shards import TokenArray
from sedd_cli.data.tokenizers import Tokenizer, load_tokenizer, needs_training
from sedd_cli.data.writer import SplitWriter
from sedd_cli.errors import RequestError
from sedd_cli.system.events import Event, Note


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
        yield from compare("prepare", paths, options, {"workers": options.workers})


def encode_to_shards(documents: Iterator[str], tokenizer: Tokenizer, workers: int, folder: Path) -> int:
    """The fast path: what prepare does with a split. Returns the number of tokens."""
    with tempfile.TemporaryDirectory(dir=folder) as shards:
        writer = SplitWriter(Path(shards), "train", "uint16" if tokenizer.vocab_size <= 1 << 16 else "uint32")
        for group in encode_stream(documents, tokenizer, str, workers):
            writer.append(group)
        return writer.finish().tokens


def encode_by_map(dataset: Any, tokenizer: Tokenizer, workers: int) -> int:
    """The plain path: a function of one document, mapped over an Arrow dataset by processes."""
    import multiprocess  # what datasets runs its workers with

    ids_of, parent = _plain_encoder(tokenizer), os.getpid()

    def encode(row: dict[str, str]) -> dict[str, Any]:
        if os.getpid() != parent:
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which ends its workers
        ids = ids_of(row["text"]) + ([] if tokenizer.eos is None else [tokenizer.eos])
        return {"ids": ids, "length": len(ids)}

    try:
        mapped = dataset.map(
            encode,
            remove_columns=["text"],
            num_proc=workers,
            load_from_cache_file=False,
            new_fingerprint=str(time.time_ns()),
        )
    except multiprocess.TimeoutError:  # how the pool of workers ends when it is interrupted
        raise KeyboardInterrupt from None
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
        yield from compare("loader", paths, options, {})
