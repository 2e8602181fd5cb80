"""Prepared datasets: the options that identify them, their folders and contents."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sedd_cli.data.corpora import CORPORA, HOLD_OUT, Request, find_corpus, is_own_text
from sedd_cli.data.detokenizers import EDITIONS
from sedd_cli.data.folders import data_folder, prepared
from sedd_cli.data.manifest import FILE, Manifest
from sedd_cli.data.shards import Dataset, listed_files, open_dataset, verify_file
from sedd_cli.data.tokenizers import check_tokenizer, is_local, load_tokenizer, needs_training
from sedd_cli.errors import RequestError, listed, not_one_of
from sedd_cli.system.digests import digest
from sedd_cli.system.events import Event, Progress

#: Most characters of a corpus and its tokenizer in the name of a folder: with the digest and `.partial` it has 255.
LONGEST_NAME = 238


@dataclass(frozen=True)
class PrepareOptions(Request):
    """What to prepare: the text (see Request), and how.

    tokenizer, detokenizer: names, or None for the corpus's defaults. eos: the token that separates documents, for a
    tokenizer of the hub or of a file that does not name one. workers: threads that encode (None: one per
    processor); they never change the result.
    """

    tokenizer: str | None = None
    detokenizer: str | None = None
    eos: str | None = None
    workers: int | None = None

    def __post_init__(self) -> None:
        if self.workers is not None and self.workers < 1:
            raise RequestError(f"workers must be at least 1, not {self.workers}")
        if self.hold_out not in HOLD_OUT:
            raise RequestError(not_one_of("hold_out", HOLD_OUT, self.hold_out))
        if self.tokenizer is not None:
            check_tokenizer(self.tokenizer, self.eos)


def tokenizer_of(options: PrepareOptions) -> str:
    """The tokenizer's name in the manifest; a local tokenizer is identified by its content, not by its path."""
    spec = options.tokenizer or find_corpus(options).tokenizer
    if not is_local(spec):
        return spec
    tokenizer = load_tokenizer(spec, options.eos)
    if tokenizer.named:
        return tokenizer.spec
    return f"{Path(tokenizer.spec).name}@{tokenizer.fingerprint[:12]}"


def choices(options: PrepareOptions) -> dict[str, Any]:
    """Every option that changes the result, as plain values, without the path of a local copy."""
    corpus = find_corpus(options)
    kept = {key: value for key, value in dataclasses.asdict(options).items() if key not in ("workers", "local")}
    kept["corpus"] = corpus.name
    for later in (
        "format",
        "eos",
        "hold_out",
    ):  # options of newer versions, so that the folders of older ones are found
        if kept[later] == getattr(PrepareOptions, later):
            del kept[later]
    kept["tokenizer"] = tokenizer_of(options)
    kept["detokenizer"] = options.detokenizer or corpus.detokenizer
    if edition := EDITIONS.get(kept["detokenizer"]):
        kept["detokenizer_edition"] = edition
    if kept["detokenizer"] != "none" and needs_training(kept["tokenizer"]):
        kept["tokenizer_edition"] = 2  # the first was trained on the text before the detokenizer
    return kept


def dataset_folder(options: PrepareOptions) -> Path:
    """Where the dataset of these options is or will be: a readable name with a hash of every option.

    Without `local` a prepared local copy of a known corpus stands for it; of several the one that has the splits of all
    others and more. RequestError where there is none such.
    """
    corpus = find_corpus(options)
    if corpus.prepared is not None:
        return corpus.prepared
    chosen = choices(options)
    name = re.sub(r"[^A-Za-z0-9._]+", "-", f"{corpus.name}-{chosen['tokenizer'].replace(':', '')}").strip("-")
    exact = data_folder() / f"{name[:LONGEST_NAME]}-{digest([corpus.identity(options), chosen])[:8]}"
    if (exact / FILE).is_file() or options.local is not None:
        return exact
    copies = prepared_copies(options)
    held = [one.splits.keys() for _, one in copies]
    whole = [folder for folder, one in copies if sum(one.splits.keys() > other for other in held) == len(held) - 1]
    if copies and not whole:
        found = listed(f"{folder.name} (of {manifest.source})" for folder, manifest in copies)
        raise RequestError(
            f"{len(copies)} prepared texts are called {corpus.name}: name one by its folder, or its files (--from): "
            f"{found}"
        )
    return whole[0] if whole else exact


def prepared_copies(options: PrepareOptions) -> list[tuple[Path, Manifest]]:
    """(folder, manifest) of each different text that local copies of a known corpus gave with these options.

    Each is taken to be equivalent to the hub's.
    """
    chosen, corpus = choices(options), find_corpus(options)
    if corpus.name not in CORPORA or not corpus.local:
        return []
    alike = [one for one in prepared() if one[1].options == chosen and one[1].corpus == corpus.name]
    return list({manifest.fingerprint: (folder, manifest) for folder, manifest in reversed(alike)}.values())[::-1]


def find_prepared(options: PrepareOptions) -> Path | None:
    """The folder of a finished dataset with these options, or None."""
    folder = dataset_folder(options)
    return folder if (folder / FILE).is_file() else None


def expected_splits(options: PrepareOptions) -> tuple[str, ...] | None:
    """The splits that hold documents, before a text is prepared; None for a corpus that is read only then."""
    if (ready := find_prepared(options)) is not None:
        return open_dataset(ready).splits
    if not is_own_text(options.corpus):
        return None
    source = find_corpus(options).open(options)
    if options.hold_out == "tail":
        return tuple(source.splits)
    return tuple(split for split, documents in source.splits.items() if next(documents(), None) is not None)


def catalogue() -> dict[str, Any]:
    """The corpora known by name, and what is prepared on this machine, as plain values."""
    known = [
        {
            "name": corpus.name,
            "about": corpus.about,
            "size": corpus.size,
            "tokenizer": corpus.tokenizer,
            "detokenizer": corpus.detokenizer,
            "licence": corpus.licence,
            "origin": corpus.origin,
            "from": corpus.local,
            "windows": corpus.windows,
        }
        for corpus in CORPORA.values()
    ]
    here = [
        {
            "corpus": manifest.corpus,
            "tokenizer": manifest.tokenizer,
            "splits": {name: info.tokens for name, info in manifest.splits.items()},
            "source": manifest.source,
            "revision": manifest.revision,
            "folder": str(folder),
        }
        for folder, manifest in prepared()
    ]
    return {"corpora": known, "prepared": here, "folder": str(data_folder())}


def inspect(dataset: Dataset, blocks: int = 3, length: int = 64) -> dict[str, Any]:
    """Counts of each split, and its first `blocks` blocks of `length` ids, decoded."""
    tokenizer = dataset.tokenizer
    splits = {}
    for name in dataset.splits:
        split = dataset.split(name)
        starts = range(0, min(split.tokens, blocks * length), length)
        splits[name] = {
            "documents": split.documents,
            "tokens": split.tokens,
            "characters": split.characters,
            "bytes": split.info.bytes,
            "unknown": split.info.unknown,
            "shards": len(split.info.shards),
            "blocks": [tokenizer.decode(split.read(at, min(at + length, split.tokens))) for at in starts],
        }
    manifest = dataset.manifest
    return {
        "folder": str(dataset.folder),
        "corpus": manifest.corpus,
        "source": manifest.source,
        "revision": manifest.revision,
        "tokenizer": manifest.tokenizer,
        "vocab_size": tokenizer.vocab_size,
        "detokenizer": manifest.detokenizer,
        "dtype": manifest.dtype,
        "fingerprint": manifest.fingerprint,
        "splits": splits,
    }


@dataclass(frozen=True)
class VerifyResult:
    """A dataset whose files all have their recorded sha256."""

    folder: Path
    files: int
    fingerprint: str

    def to_dict(self) -> dict[str, Any]:
        return {"folder": str(self.folder), "files": self.files, "fingerprint": self.fingerprint}


def verify(folder: Path) -> Generator[Event, None, VerifyResult]:
    """Read every file of a dataset and compare its sha256; DamageError at the first that differs."""
    dataset = open_dataset(folder)
    files = listed_files(dataset.manifest)
    for done, (file, _, sha256) in enumerate(files, 1):
        verify_file(folder / file, sha256)
        yield Progress("verify", done, len(files), "files")
    assert dataset.tokenizer.fingerprint == dataset.manifest.tokenizer_fingerprint
    return VerifyResult(folder, len(files), dataset.manifest.fingerprint)
