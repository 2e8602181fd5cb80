"""`prepare`: from a corpus to token shards in a folder of their own, once."""

from __future__ import annotations

import errno
import itertools
import json
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from sedd_cli import __version__
from sedd_cli.data.corpora import Corpus, Source, find_corpus
from sedd_cli.data.detokenizers import find_detokenizer
from sedd_cli.data.encode import encode_stream
from sedd_cli.data.manifest import Manifest, SplitInfo
from sedd_cli.data.prepared import PrepareOptions, choices, dataset_folder, find_prepared
from sedd_cli.data.shards import open_dataset
from sedd_cli.data.tokenizers import Tokenizer, load_tokenizer, needs_training, open_tokenizer, train_tokenizer
from sedd_cli.data.tokenizers.base import FILE as TOKENIZER_FILE
from sedd_cli.data.writer import SplitWriter
from sedd_cli.errors import DamageError, RequestError, WorkError
from sedd_cli.system.events import Event, Note, Prepared, Progress, Warn
from sedd_cli.system.files import write_whole
from sedd_cli.system.home import home
from sedd_cli.system.locks import file_lock

__all__ = ["PrepareOptions", "dataset_folder", "home", "prepare"]

ORIGIN = "origin.json"


def prepare(options: PrepareOptions) -> Iterator[Event]:
    """Prepare a corpus unless it is there already; yields Note, Warn and Progress, and Prepared as the last event.

    Shards are written beside the final folder and renamed once all are there. A run that was interrupted goes
    on behind its last finished shard; the result is the same, and it does not depend on `options.workers`.

    Raises RequestError for a request that cannot be met, DamageError for damaged files, WorkError for a full disk.
    """
    corpus = find_corpus(options)
    find_detokenizer(options.detokenizer or corpus.detokenizer)
    if (ready := find_prepared(options)) is not None:
        yield Prepared(ready, open_dataset(ready).manifest.as_dict(), fresh=False)
        return
    folder = dataset_folder(options)
    partial = folder.with_name(f"{folder.name}.partial")
    source = corpus.open(options)
    with _lock(folder), _tidy_on_failure(partial):
        if (ready := find_prepared(options)) is not None:  # another process finished it meanwhile
            yield Prepared(ready, open_dataset(ready).manifest.as_dict(), fresh=False)
            return
        manifest = yield from _fill(options, corpus, source, partial)
        manifest.write(partial)
        for state in partial.glob("*.finished.json"):
            state.unlink()
        (partial / ORIGIN).unlink()
        os.replace(partial, folder)
    yield Prepared(folder, manifest.as_dict(), fresh=True)


def _fill(options: PrepareOptions, corpus: Corpus, source: Source, folder: Path):
    """Write tokenizer and shards into `folder`; returns the manifest."""
    yield from (Warn(remark) for remark in source.remarks)
    if _begin(folder, source):
        yield Note(f"going on with {corpus.name} behind the last finished shard")
    spec = options.tokenizer or corpus.tokenizer
    tokenizer = yield from _tokenizer(spec, source, folder)
    dtype = "uint16" if tokenizer.vocab_size <= 1 << 16 else "uint32"
    detokenizer = options.detokenizer or corpus.detokenizer
    splits: dict[str, SplitInfo] = {}
    for split in source.splits:
        writer = SplitWriter(folder, split, dtype)
        splits[split] = yield from _encode(source, split, tokenizer, detokenizer, writer, options.workers)
    yield from _empty_splits(corpus, splits)
    return Manifest(
        corpus=corpus.name,
        source=source.location,
        revision=source.revision,
        tokenizer=tokenizer.spec,
        tokenizer_fingerprint=tokenizer.fingerprint,
        detokenizer=detokenizer,
        options=choices(options),
        software=f"sedd {__version__}",
        dtype=dtype,
        splits={split: info for split, info in splits.items() if info.documents},
    ).sealed()


def _begin(folder: Path, source: Source) -> bool:
    """Make `folder` ready for shards of this very source; whether it holds some already."""
    origin = {"location": source.location, "revision": source.revision, "software": __version__}
    file = folder / ORIGIN
    if file.is_file() and json.loads(file.read_text(encoding="utf-8")) == origin:
        return any(folder.glob("*.finished.json"))
    # Shards of another source or version must not stand beside those to come.
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    write_whole(file, json.dumps(origin))
    return False


def _tokenizer(spec: str, source: Source, folder: Path):
    """The tokenizer, trained if it has to be, and stored in `folder`."""
    if (folder / TOKENIZER_FILE).is_file():
        return open_tokenizer(folder)
    if needs_training(spec):
        if "train" not in source.splits:
            raise RequestError(
                f"tokenizer {spec!r} is trained on the train split, and {source.location} gives only "
                f"{', '.join(source.splits)}; name a folder that holds a trained one"
            )
        yield Note(f"training the tokenizer {spec}")
        tokenizer = train_tokenizer(spec, source.splits["train"]())
    else:
        tokenizer = load_tokenizer(spec)
    tokenizer.save(folder)
    return tokenizer


def _encode(
    source: Source, split: str, tokenizer: Tokenizer, detokenizer: str, writer: SplitWriter, workers: int | None
):
    """Encode what is left of one split; returns what the split holds."""
    began, before, done = time.monotonic(), writer.tokens, writer.documents
    rest = itertools.islice(source.splits[split](), done, None)
    encoded = encode_stream(rest, tokenizer, find_detokenizer(detokenizer), workers or _processors())
    try:
        for group in encoded:
            writer.append(group)
            done += len(group.ends)
            rate = (writer.tokens - before) / max(time.monotonic() - began, 1e-9)
            figures = {"tokens": f"{writer.tokens:,}", "tokens/s": f"{rate:,.0f}"}
            yield Progress(f"encode {split}", done, source.counts.get(split), "documents", figures)
        info = writer.finish()
        yield Progress(f"encode {split}", done, done, "documents", {"tokens": f"{info.tokens:,}"})
        return info
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise _DiskFullError(writer.tokens, writer.text_bytes, source.size) from error
        raise
    finally:
        encoded.close()
        writer.abandon()


def _processors() -> int:
    """Processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _empty_splits(corpus: Corpus, splits: dict[str, SplitInfo]) -> Iterator[Event]:
    """Refuse a result without text; warn of a split that got none."""
    empty = [split for split, info in splits.items() if not info.documents]
    if len(empty) == len(splits) or "train" in empty:
        found = sum(info.documents for info in splits.values())
        raise RequestError(
            f"{corpus.name} has {found} document{'s' * (found != 1)}, too few to fill {', '.join(empty)}; "
            "cut it finer (--documents line), or name the file for its split (my.test.txt)"
        )
    for split in empty:
        yield Warn(f"{corpus.name} is too small to have a {split} split: no document fell into it")


@contextmanager
def _lock(folder: Path) -> Iterator[None]:
    """Hold the lock of a dataset folder; RequestError if another process prepares it."""
    with ExitStack() as stack:
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            lock = folder.with_name(f".{folder.name}.lock")
            stack.enter_context(file_lock(lock, f"another process is preparing {folder}"))
        except OSError as error:
            raise RequestError(f"{folder.parent} cannot be written: choose another folder with SEDD_HOME") from error
        yield


class _DiskFullError(OSError):
    """The disk filled up after `tokens` tokens, which `text` bytes of about `size` (None: not known) gave."""

    def __init__(self, tokens: int, text: int, size: int | None):
        super().__init__(errno.ENOSPC, "disk full")
        self.tokens, self.text, self.size = tokens, text, size


@contextmanager
def _tidy_on_failure(partial: Path):
    """Leave behind only what the same command can use later; say in one line how much room a full disk lacks."""
    try:
        yield
    except (RequestError, DamageError):
        # The text has to change before this can succeed, and then it is another dataset.
        shutil.rmtree(partial, ignore_errors=True)
        raise
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        kept = any(partial.glob("*.finished.json"))
        if not kept:
            shutil.rmtree(partial, ignore_errors=True)
        what = f"; finished shards stay in {partial}, and the same command goes on behind them" if kept else ""
        raise WorkError(f"the disk of {partial.parent} is full: {_room(error)}{what}") from error


def _room(error: OSError) -> str:
    """How much more is needed, as far as the part that was written tells."""
    if not isinstance(error, _DiskFullError) or not error.size or not error.text:
        return "free some, or choose another with SEDD_HOME"
    # Four bytes a token at most, over the text that is left, by the share of text that is done.
    missing = max(error.size - error.text, 0) / error.text * error.tokens * 4
    return f"about {missing / 2**20 + 1:,.0f} MiB more are needed; free them, or choose another disk with SEDD_HOME"
