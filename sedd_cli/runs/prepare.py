"""`prepare`: from a corpus to token shards in a folder of their own, once."""

from __future__ import annotations

import dataclasses
import itertools
import os
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from sedd_cli import __version__
from sedd_cli.errors import RequestError
from sedd_cli.runs.events import Event, Note, Prepared, Progress
from sedd_cli.text.corpora import Corpus, Request, Source, find_corpus
from sedd_cli.text.encode import encode_stream
from sedd_cli.text.manifest import FILE, Manifest, SplitInfo
from sedd_cli.text.shards import open_dataset
from sedd_cli.text.tokenizers import Tokenizer, load_tokenizer, needs_training, open_tokenizer, train_tokenizer
from sedd_cli.text.tokenizers.base import FILE as TOKENIZER_FILE
from sedd_cli.text.tokenizers.base import digest
from sedd_cli.text.writer import SplitWriter


@dataclass(frozen=True)
class PrepareOptions(Request):
    """What to prepare. Beyond the text itself (see Request): tokenizer, the corpus's usual one if None;
    workers, threads that encode (default: the processors there are), which never change the result."""

    tokenizer: str | None = None
    workers: int | None = None


def home() -> Path:
    """Where data and caches live: $SEDD_HOME, else the platform's user cache folder."""
    if chosen := os.environ.get("SEDD_HOME"):
        return Path(chosen).expanduser()
    import platformdirs

    return Path(platformdirs.user_cache_dir("sedd"))


def dataset_folder(options: PrepareOptions) -> Path:
    """Where these options' dataset is or will be: a name to read, and a hash of every option to keep apart."""
    corpus = find_corpus(options)
    tokenizer = options.tokenizer or corpus.tokenizer
    name = re.sub(r"[^A-Za-z0-9.]+", "-", f"{corpus.name}-{tokenizer.replace(':', '')}").strip("-")
    return home() / "data" / f"{name}-{digest([corpus.name, corpus.identity(options), _recorded(options, corpus)])[:8]}"


def prepare(options: PrepareOptions) -> Iterator[Event]:
    """Prepare a corpus unless it is there already; yields Progress and Note, and Prepared as the last event.

    Raises RequestError for a request that cannot be met, DamageError for a folder that was damaged.
    """
    corpus = find_corpus(options)
    folder = dataset_folder(options)
    if (folder / FILE).is_file():
        yield Prepared(folder, open_dataset(folder).manifest.as_dict(), fresh=False)
        return
    partial = folder.with_name(folder.name + ".partial")
    partial.mkdir(parents=True, exist_ok=True)
    source = corpus.open(options)
    tokenizer = yield from _tokenizer(options.tokenizer or corpus.tokenizer, source, partial)
    dtype = "uint16" if tokenizer.vocab_size <= 1 << 16 else "uint32"
    splits = {}
    for split in source.splits:
        splits[split] = yield from _encode(source, split, tokenizer, dtype, partial, options.workers)
    manifest = Manifest(
        corpus=corpus.name,
        source=source.location,
        revision=source.revision,
        tokenizer=tokenizer.spec,
        tokenizer_fingerprint=tokenizer.fingerprint,
        detokenizer=corpus.detokenizer,
        options=_recorded(options, corpus),
        software=f"sedd {__version__}",
        dtype=dtype,
        splits={name: split for name, split in splits.items() if split.documents},
    ).sealed()
    manifest.write(partial)
    os.replace(partial, folder)
    yield Note(f"prepared {corpus.name} in {folder}")
    yield Prepared(folder, manifest.as_dict(), fresh=True)


def _recorded(options: PrepareOptions, corpus: Corpus) -> dict:
    """The options that change the result, as plain values."""
    kept = dataclasses.asdict(options)
    kept.pop("workers")
    kept.pop("local")
    kept["corpus"] = corpus.name
    kept["tokenizer"] = options.tokenizer or corpus.tokenizer
    return kept


def _tokenizer(spec: str, source: Source, folder: Path):
    if (folder / TOKENIZER_FILE).is_file():
        return open_tokenizer(folder)
    if needs_training(spec):
        if "train" not in source.splits:
            raise RequestError(f"tokenizer {spec!r} is trained on the train split, and {source.location} has none")
        yield Note(f"training the tokenizer {spec}")
        tokenizer = train_tokenizer(spec, source.splits["train"]())
    else:
        tokenizer = load_tokenizer(spec)
    tokenizer.save(folder)
    return tokenizer


def _encode(
    source: Source, split: str, tokenizer: Tokenizer, dtype: str, folder: Path, workers: int | None
) -> Iterator[Event]:
    writer = SplitWriter(folder, split, dtype)
    began, before, done = time.monotonic(), writer.tokens, writer.documents
    rest = itertools.islice(source.splits[split](), done, None)
    try:
        for group in encode_stream(rest, tokenizer, lambda text: text, workers or os.cpu_count() or 1):
            writer.append(group)
            done += len(group.ends)
            rate = (writer.tokens - before) / max(time.monotonic() - began, 1e-9)
            figures = {"tokens": f"{writer.tokens:,}", "tokens/s": f"{rate:,.0f}"}
            yield Progress(f"{split}", done, source.counts.get(split), "documents", figures)
        info: SplitInfo = writer.finish()
    except BaseException:
        writer.abandon()
        raise
    return info
