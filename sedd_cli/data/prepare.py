"""`prepare`: a corpus → token shards in a folder."""

from __future__ import annotations

import errno
import itertools
import os
import shutil
import time
from collections.abc import Generator, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sedd_cli import __version__
from sedd_cli.data.corpora import Corpus, Source, find_corpus
from sedd_cli.data.detokenizers import find_detokenizer
from sedd_cli.data.encode import encode_stream
from sedd_cli.data.folders import has_tokenizer
from sedd_cli.data.manifest import Manifest, SplitInfo
from sedd_cli.data.prepared import PrepareOptions, choices, dataset_folder, find_prepared
from sedd_cli.data.remarks import tokenizer_remarks, unknown_remarks
from sedd_cli.data.shards import open_dataset
from sedd_cli.data.tokenizers import (
    Tokenizer,
    check_tokenizer,
    load_tokenizer,
    needs_training,
    open_tokenizer,
    train_tokenizer,
)
from sedd_cli.data.tokenizers.base import FILE as TOKENIZER_FILE
from sedd_cli.data.writer import SplitWriter
from sedd_cli.errors import DamageError, RequestError, WorkError, disk_full, printable
from sedd_cli.system.documents import read_json
from sedd_cli.system.events import Event, Note, Progress, Warn
from sedd_cli.system.files import write_whole
from sedd_cli.system.json_lines import json_text
from sedd_cli.system.locks import beside, file_lock, is_locked

ORIGIN = "origin.json"


@dataclass(frozen=True, repr=False)
class PrepareResult:
    """A complete dataset; `fresh`: this call made it."""

    folder: Path
    manifest: Manifest
    fresh: bool

    def __repr__(self) -> str:
        splits = ", ".join(f"{name} {split.tokens:,} tokens" for name, split in self.manifest.splits.items())
        return f"PrepareResult({self.folder}: {splits})"

    def to_dict(self) -> dict[str, Any]:
        return {"folder": str(self.folder), "fresh": self.fresh, **self.manifest.to_dict()}


def prepare(options: PrepareOptions) -> Generator[Event, None, PrepareResult]:
    """Prepare a corpus, unless it is prepared already.

    Shards are written to a folder beside the final one, which is renamed when all are complete. An interrupted run
    resumes after its last complete shard. The result does not depend on interruptions or on `options.workers`.

    Raises RequestError for a request that cannot be met, DamageError for damaged files, WorkError where a file
    cannot be written.
    """
    corpus = find_corpus(options)
    find_detokenizer(options.detokenizer or corpus.detokenizer)
    if corpus.prepared is not None:
        stored = yield from _stored(corpus.prepared)
        if options.tokenizer is not None and not has_tokenizer(stored.manifest, options.tokenizer):
            yield Warn(
                f"the tokenizer {options.tokenizer} has no effect on {corpus.name}, which is prepared in "
                f"{stored.manifest.tokenizer}"
            )
        return stored
    if (ready := find_prepared(options)) is not None:
        manifest = open_dataset(ready).manifest
        if options.local is None and corpus.local and manifest.source != corpus.origin and "://" not in manifest.source:
            yield Note(f"{corpus.name} is the copy prepared from {manifest.source}")
        return (yield from _stored(ready))
    check_tokenizer(options.tokenizer or corpus.tokenizer, options.eos)
    folder = dataset_folder(options)
    partial = folder.with_name(f"{folder.name}.partial")
    source = corpus.open(options)
    if is_locked(beside(folder)):
        yield Note(f"another process is preparing {folder}; this one waits for it")
    with _lock(folder), _tidy_on_failure(partial):
        if (ready := find_prepared(options)) is not None:  # another process finished it meanwhile
            return (yield from _stored(ready))
        if folder.exists() and any(folder.iterdir()):
            raise RequestError(f"{folder} exists, without an intact manifest.json: move it away, or delete it")
        manifest = yield from _fill(options, corpus, source, partial)
        manifest.write(partial)
        for state in partial.glob("*.finished.json"):
            state.unlink()
        (partial / ORIGIN).unlink()
        os.replace(partial, folder)
    return PrepareResult(folder, manifest, fresh=True)


def _stored(folder: Path) -> Generator[Event, None, PrepareResult]:
    """A dataset that exists. The warnings of its preparation are repeated, such as lost bytes."""
    manifest = open_dataset(folder).manifest
    for line in manifest.warnings:
        yield Warn(line)
    return PrepareResult(folder, manifest, fresh=False)


def _fill(options: PrepareOptions, corpus: Corpus, source: Source, folder: Path) -> Generator[Event, None, Manifest]:
    """Write tokenizer and shards into `folder`; returns the manifest."""
    remarks: list[Note] = []

    def remarked(events: Iterable[Note]) -> Iterator[Note]:
        for event in events:
            remarks.append(event)
            yield event

    chosen = f"the tokenizer is {corpus.tokenizer}, {corpus.why} (--tokenizer)" if corpus.why else ""
    notes = (*source.notes, *([chosen] if chosen and options.tokenizer is None else []))
    yield from remarked((*map(Warn, source.remarks), *map(Note, notes)))
    if _begin(folder, source):
        yield Note(f"resuming {corpus.name} after the last finished shard")
    spec = options.tokenizer or corpus.tokenizer
    detokenizer = options.detokenizer or corpus.detokenizer
    tokenizer = yield from _tokenizer(options, spec, source, detokenizer, folder)
    yield from remarked(tokenizer_remarks(tokenizer, source, find_detokenizer(detokenizer)))
    dtype = "uint16" if tokenizer.vocab_size <= 1 << 16 else "uint32"
    splits: dict[str, SplitInfo] = {}
    for split in source.splits:
        writer = SplitWriter(folder, split, dtype)
        splits[split] = yield from _encode(source, split, tokenizer, detokenizer, writer, options.workers)
    lost = map(Warn, (*source.tally.remarks(), *unknown_remarks(splits)))
    yield from remarked((*_empty_splits(corpus, splits), *lost))
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
        remarks=tuple(printable(event.text) for event in remarks),
        warnings=tuple(printable(event.text) for event in remarks if isinstance(event, Warn)),
    ).sealed()


def _begin(folder: Path, source: Source) -> bool:
    """Make `folder` ready for shards of this source. Returns whether it already holds some."""
    origin = {"location": source.location, "revision": source.revision, "software": __version__}
    file = folder / ORIGIN
    if file.is_file() and _read_origin(file) == origin:
        return any(folder.glob("*.finished.json"))
    # shards of another source or version must not be mixed with new ones
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    write_whole(file, json_text(origin))
    return False


def _read_origin(file: Path) -> Any:
    try:
        return read_json(file)
    except DamageError:
        return None


def _tokenizer(
    options: PrepareOptions, spec: str, source: Source, detokenizer: str, folder: Path
) -> Generator[Event, None, Tokenizer]:
    """The tokenizer, trained on the detokenized text if necessary, and stored in `folder`."""
    if (folder / TOKENIZER_FILE).is_file():
        return open_tokenizer(folder)
    if needs_training(spec):
        if "train" not in source.splits:
            raise RequestError(
                f"tokenizer {spec!r} is trained on the train split, and {source.location} gives only "
                f"{', '.join(source.splits)}; name a folder that holds a trained one"
            )
        yield Note(f"training the tokenizer {spec}")
        tokenizer = train_tokenizer(spec, map(find_detokenizer(detokenizer), source.splits["train"]()))
    else:
        tokenizer = load_tokenizer(spec, options.eos)
    tokenizer.save(folder)
    return tokenizer


def _encode(
    source: Source, split: str, tokenizer: Tokenizer, detokenizer: str, writer: SplitWriter, workers: int | None
) -> Generator[Event, None, SplitInfo]:
    """Encode the rest of one split."""
    began, before, done = time.monotonic(), writer.tokens, writer.documents
    rest = itertools.islice(source.splits[split](), done, None)
    encoded = encode_stream(rest, tokenizer, find_detokenizer(detokenizer), workers or _processors())
    try:
        for group in encoded:
            writer.append(group)
            done += len(group.ends)
            rate = (writer.tokens - before) / max(time.monotonic() - began, 1e-9)
            metrics = {"tokens": f"{writer.tokens:,}", "tokens/s": f"{rate:,.0f}"}
            yield Progress(f"encode {split}", done, source.counts.get(split), "documents", metrics)
        info = writer.finish()
        yield Progress(f"encode {split}", done, done, "documents", {"tokens": f"{info.tokens:,}"})
        return info
    except OSError as error:
        if disk_full(error):
            raise _DiskFullError(writer.tokens, writer.text_bytes, source.size) from error
        raise
    finally:
        encoded.close()
        writer.abandon()


def _processors() -> int:
    """Processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _empty_splits(corpus: Corpus, splits: dict[str, SplitInfo]) -> Iterator[Warn]:
    """RequestError if no text or no training text is left; a Warn for every other empty split."""
    empty = [split for split, info in splits.items() if not info.documents]
    if len(empty) == len(splits) or "train" in empty:
        found = sum(info.documents for info in splits.values())
        raise RequestError(f"{corpus.name} has {found:,} documents, none of them in {', '.join(empty)}")
    way = "; --hold-out tail holds out the end of a text" if Path(corpus.origin).exists() else ""
    for split in empty:
        yield Warn(f"{corpus.name} is too small to have a {split} split: no document fell into it{way}")


@contextmanager
def _lock(folder: Path) -> Iterator[None]:
    """Hold the lock of a dataset folder, once no other process prepares it."""
    with ExitStack() as stack:
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            stack.enter_context(file_lock(beside(folder), f"another process is preparing {folder}", timeout=-1))
        except OSError as error:
            if disk_full(error):
                raise WorkError(f"the disk of {folder.parent} is full: {_room(error)}") from error
            raise RequestError(f"{folder.parent} cannot be written: choose another folder with SEDD_HOME") from error
        yield


class _DiskFullError(OSError):
    """The disk filled up after `tokens` tokens, made of `text` bytes of about `size` (None: unknown)."""

    def __init__(self, tokens: int, text: int, size: int | None):
        super().__init__(errno.ENOSPC, "disk full")
        self.tokens, self.text, self.size = tokens, text, size


@contextmanager
def _tidy_on_failure(partial: Path) -> Iterator[None]:
    """Keep only what the same command can resume from; name the file that cannot be written, or the space lacking."""
    try:
        yield
    except (RequestError, DamageError):
        # to succeed the text has to change, and then it is another dataset
        shutil.rmtree(partial, ignore_errors=True)
        raise
    except OSError as error:
        ours = error.filename is not None and Path(error.filename).is_relative_to(partial.parent)
        if not disk_full(error) and (not ours or isinstance(error, PermissionError)):
            raise
        kept = any(partial.glob("*.finished.json"))
        if not kept:
            shutil.rmtree(partial, ignore_errors=True)
        what = f"; finished shards stay in {partial}, and the same command resumes after them" if kept else ""
        if disk_full(error):
            raise WorkError(f"the disk of {partial.parent} is full: {_room(error)}{what}") from error
        raise WorkError(f"{error.filename} cannot be written: {error.strerror}{what}") from error


def _room(error: OSError) -> str:
    """How much more space is needed, extrapolated from the part that was written."""
    if not isinstance(error, _DiskFullError) or not error.size or not error.text:
        return "free some, or choose another with SEDD_HOME"
    # at most four bytes per token, for the text that is left, at the rate of the text that is done
    missing = max(error.size - error.text, 0) / error.text * error.tokens * 4
    return f"about {missing / 2**20 + 1:,.0f} MiB more are needed; free them, or choose another disk with SEDD_HOME"
