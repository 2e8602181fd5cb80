"""The bench of tokenizing: `sedd prepare` against `datasets.map`."""

from __future__ import annotations

import itertools
import os
import signal
import tempfile
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sedd_cli.bench.compare import BenchOptions, BenchResult, compare
from sedd_cli.data.corpora import find_corpus
from sedd_cli.data.encode import encode_stream
from sedd_cli.data.prepared import PrepareOptions
from sedd_cli.data.tokenizers import Tokenizer, load_tokenizer, needs_training
from sedd_cli.data.writer import SplitWriter
from sedd_cli.errors import RequestError
from sedd_cli.system.events import Event, Note


@dataclass(frozen=True)
class PrepareBenchOptions(BenchOptions):
    """megabytes: UTF-8 text to encode; a shorter corpus is repeated. workers: our threads, their processes."""

    corpus: str = "pydocs"
    tokenizer: str = "gpt2"
    megabytes: float = 64.0
    workers: int = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.megabytes > 0 or self.workers < 1:
            raise RequestError(f"megabytes and workers must be positive, found {self.megabytes} and {self.workers}")
        if needs_training(self.tokenizer):
            raise RequestError(f"tokenizer {self.tokenizer!r} has to be trained first; choose another, such as gpt2")


def bench_prepare(options: PrepareBenchOptions) -> Generator[Event, None, BenchResult]:
    """Encoding, hashing and writing as in `sedd prepare`, against `datasets.map` with one document at a time."""
    source = find_corpus(request := PrepareOptions(corpus=options.corpus)).open(request)
    if not source.splits:
        raise RequestError(f"{options.corpus} holds no text to encode; name a corpus, or a file or folder of text")
    tokenizer = load_tokenizer(options.tokenizer)
    read = source.splits[next(iter(source.splits))]
    if not any(read()):
        raise RequestError(f"the documents of {options.corpus} are all empty")

    def documents() -> Iterator[str]:
        size = 0
        for text in itertools.chain.from_iterable(read() for _ in itertools.count()):
            yield text
            size += len(text.encode("utf-8", "surrogatepass"))
            if size >= options.megabytes * 1e6:
                return

    with tempfile.TemporaryDirectory(prefix="sedd-bench-") as folder:
        yield Note(f"{options.megabytes:g} MB of {options.corpus}, {tokenizer.spec}, {options.workers} workers")
        dataset = _arrow(documents, Path(folder))
        paths = {
            "sedd prepare": lambda: encode_to_shards(documents(), tokenizer, options.workers, Path(folder)),
            "datasets.map": lambda: encode_by_map(dataset, tokenizer, options.workers),
        }
        return (yield from compare("prepare", paths, options, {"workers": options.workers}))


def encode_to_shards(documents: Iterator[str], tokenizer: Tokenizer, workers: int, folder: Path) -> int:
    """The fast path: encode and write a split as `sedd prepare` does. Returns the number of tokens."""
    with tempfile.TemporaryDirectory(dir=folder) as shards:
        writer = SplitWriter(Path(shards), "train", "uint16" if tokenizer.vocab_size <= 1 << 16 else "uint32")
        for group in encode_stream(documents, tokenizer, str, workers):
            writer.append(group)
        return writer.finish().tokens


def encode_by_map(dataset: Any, tokenizer: Tokenizer, workers: int) -> int:
    """The plain path: map an encoder of one document over an Arrow dataset. Returns the number of tokens."""
    import multiprocess  # datasets runs its workers with it

    ids_of, parent = _plain_encoder(tokenizer), os.getpid()

    def encode(row: dict[str, str]) -> dict[str, Any]:
        if os.getpid() != parent:
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles Ctrl-C and ends its workers
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
    except multiprocess.TimeoutError:  # pyright: ignore[reportAttributeAccessIssue]  (raised by the interrupted pool of workers)
        raise KeyboardInterrupt from None
    return sum(mapped["length"])


def _plain_encoder(tokenizer: Tokenizer) -> Callable[[str], list[int]]:
    """The encoder that a script would call: tiktoken's own where it has the tokenizer."""
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
