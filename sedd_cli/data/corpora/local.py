"""The user's own text: a file, or a folder of files.

Splits: where files are named for evaluation (valid, validation, val, dev, heldout or test; see `file_splits`), names
decide, and a file that names no split is for training. Otherwise documents are dealt out 90/5/5 by a hash of their
text. In a folder of several files without split names, each text file is one document.
"""

from __future__ import annotations

import dataclasses
from functools import partial
from pathlib import Path

from sedd_cli.data.corpora.base import SPLITS, Corpus, Documents, Request, Source, by_share, one_after_another
from sedd_cli.data.corpora.files import Found, file_splits, find_files, identity_of
from sedd_cli.data.formats import ENDINGS, RECORDS, ReadOptions, chosen_format, format_of, read_documents
from sedd_cli.data.manifest import read_manifest
from sedd_cli.errors import RequestError, listed


def local_corpus(request: Request) -> Corpus:
    """The corpus that a file or folder on this machine is."""
    path = Path(request.corpus)
    return Corpus(
        name=path.stem if path.is_file() else path.resolve().name,
        about="your own text",
        size="",
        licence="yours to know",
        tokenizer="gpt2",
        origin=str(path),
        open=_open,
        identity=_identity,
    )


def prepared_corpus(request: Request) -> Corpus:
    """The corpus that a folder made by `sedd prepare` holds, with its tokenizer; no option applies to it."""
    folder = Path(request.corpus)
    manifest = read_manifest(folder)
    plain = Request(request.corpus)
    idle = [f.name for f in dataclasses.fields(Request) if getattr(request, f.name) != getattr(plain, f.name)]
    if idle:
        raise RequestError(f"--{idle[0]} has no effect on {folder}, which is prepared already")
    return Corpus(
        name=manifest.corpus,
        about="prepared text",
        size="",
        licence="yours to know",
        tokenizer=as_path(folder),
        origin=manifest.source,
        open=lambda request: Source(str(folder), manifest.revision, {}),
        identity=lambda request: manifest.fingerprint,
        detokenizer=manifest.detokenizer,
        prepared=folder,
    )


def as_path(folder: Path) -> str:
    """A folder spelled so that it is never taken for a name."""
    return str(folder) if folder.is_absolute() or len(folder.parts) > 1 else f"./{folder}"


def _identity(request: Request) -> str:
    return identity_of(Path(request.corpus), _found(request).files)


def _found(request: Request) -> Found:
    path = Path(request.corpus)
    if path.is_file():
        chosen_format(str(path), request.reading())
    found = find_files(path, lambda file: request.format != "auto" or format_of(file.name) is not None)
    if not found.files:
        raise RequestError(f"{path} holds no file that can be read; known endings: {', '.join(ENDINGS)}")
    return found


def _open(request: Request) -> Source:
    path = Path(request.corpus)
    found = _found(request)
    files, splits = found.files, file_splits(found.files)
    named = {split for split in splits.values() if split in ("validation", "test")}
    formats = {chosen_format(str(file), request.reading()) for file in files}
    _refuse_idle(request, path, formats)
    reading = _reading(request, files, bool(named), formats)
    readers = {file: partial(read_documents, file, reading) for file in files}
    source = Source(
        location=str(path),
        revision=None,
        splits=_splits(readers, splits) if named else by_share(one_after_another(list(readers.values()))),
        size=sum(file.stat().st_size for file in files),
        notes=tuple(filter(None, [found.note(path), _said(files, splits, named), _separation(reading, formats)])),
        tally=reading.tally,
    )
    if all(next(reader(), None) is None for reader in readers.values()):
        raise RequestError(f"{path} holds no text: it is empty, or nothing but white space")
    return source.only(request.split)


def _refuse_idle(request: Request, path: Path, formats: set[str]) -> None:
    """RequestError for an option that has no effect on these files."""
    for option, value in (("--config", request.config), ("--revision", request.revision)):
        if value is not None:
            raise RequestError(f"{option} has no effect on {path}: it is for datasets of the hub")
    if request.field is not None and not formats & {*RECORDS, "archive"}:
        raise RequestError(f"--field has no effect on {path}: it is text, without fields")
    if request.documents != "auto" and not formats & {"text", "archive"}:
        raise RequestError(f"--documents has no effect on {path}: each record is a document")


def _reading(request: Request, files: list[Path], named: bool, formats: set[str]) -> ReadOptions:
    if request.documents == "auto" and len(files) > 1 and not named and "text" in formats:
        return ReadOptions(request.field, request.encoding, "file", request.format)
    return request.reading()


def _splits(readers: dict[Path, Documents], names: dict[Path, str | None]) -> dict[str, Documents]:
    grouped = {split: [readers[file] for file in readers if (names[file] or "train") == split] for split in SPLITS}
    return {split: one_after_another(group) for split, group in grouped.items() if group}


def _said(files: list[Path], splits: dict[Path, str | None], named: set[str]) -> str:
    """What names decided about splits."""
    if named:
        groups = {split: [file.name for file in files if (splits[file] or "train") == split] for split in SPLITS}
        return "splits by file names: " + "; ".join(f"{s} {listed(names, 3)}" for s, names in groups.items() if names)
    return "splits by a hash of each document: train 90 %, validation 5 %, test 5 %"


def _separation(reading: ReadOptions, formats: set[str]) -> str:
    """What separates documents."""
    if "text" not in formats:
        return ""
    how = {"auto": "blank lines, or line ends in a file without blank lines", "blank": "blank lines"}
    how |= {"line": "line ends", "file": "files"}
    return f"documents of text files are separated by {how.get(reading.documents, reading.documents)} (--documents)"
