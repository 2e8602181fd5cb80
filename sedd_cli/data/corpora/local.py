"""The user's own text: a file, or a folder of files.

Splits: where files are named for evaluation (valid, validation, val, dev, heldout or test; see `file_splits`), names
decide, and a file that names no split is for training. Otherwise documents are dealt out 90/5/5 by a hash of their
text, or the last tenth of the text is held out (`hold_out`). In a folder of several files without split names, each
text file is one document. An archive is read as a folder of its members.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path, PurePath, PurePosixPath

from sedd_cli.data.corpora.base import SPLITS, Corpus, Documents, Request, Source, by_share, by_tail
from sedd_cli.data.corpora.files import Found, file_splits, find_files, identity_of
from sedd_cli.data.formats import (
    ENDINGS,
    RECORDS,
    ReadOptions,
    chosen_format,
    finished,
    format_of,
    open_archive,
    read_documents,
)
from sedd_cli.data.formats.choice import Choice
from sedd_cli.data.manifest import read_manifest
from sedd_cli.errors import RequestError, listed


def local_corpus(request: Request) -> Corpus:
    """The corpus that a file or folder on this machine is."""
    path = Path(request.corpus)
    size = _training_bytes(request, path)
    small = 0 < size <= SMALL
    return Corpus(
        name=path.stem if path.is_file() else path.resolve().name,
        about="your own text",
        size="",
        licence="yours to know",
        tokenizer=f"bpe:{pieces(size)}" if small else "gpt2",
        origin=str(path),
        open=_open,
        identity=_identity,
        why=f"by the size of the text, {size:,} bytes" if small else "",
    )


def pieces(size: int) -> int:
    """N of the bpe:N of a text of `size` bytes: the power of two next to 2·√size, from 512. 1 MB has 2,048."""
    return max(512, 2 ** round(1 + math.log2(size) / 2))


def _training_bytes(request: Request, path: Path) -> int:
    """Bytes of the files of one's own text; 0 where none is for training, since bpe:N is learnt from that split."""
    try:
        files = _in_folder(request, path).files
        splits = file_splits(files)
        if request.split in (None, "train") and any(splits[file] in (None, "train") for file in files):
            return sum(file.stat().st_size for file in files)
    except (RequestError, OSError):  # what is wrong is reported when the text is opened
        pass
    return 0


def prepared_corpus(request: Request) -> Corpus:
    """The corpus that a folder made by `sedd prepare` holds, with its tokenizer; its own options may be named again."""
    folder = Path(request.corpus)
    manifest = read_manifest(folder)
    plain = Request(request.corpus)
    given = {f.name: getattr(request, f.name) for f in dataclasses.fields(Request)}
    if idle := [key for key, one in given.items() if one not in (getattr(plain, key), manifest.options.get(key))]:
        raise RequestError(f"--{idle[0].replace('_', '-')} has no effect on {folder}, which is prepared already")
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
    path = Path(request.corpus)
    if path.is_file():
        chosen_format(str(path), request.reading())
        return identity_of(path, [path])
    return identity_of(path, _in_folder(request, path).files)


#: Bytes up to which one's own text gets a tokenizer of its own size; a larger one gets GPT-2's, for nothing is trained.
SMALL = 100_000_000


@dataclass(frozen=True)
class Texts:
    """The files of a folder, the members of an archive, or one file, and what they hold.

    names: in path order. formats: theirs. documents(names, reading): the documents of some of them. size: bytes of all.
    note: what was found and what is left out.
    """

    names: list[PurePath]
    formats: set[str]
    documents: Callable[[list[PurePath], ReadOptions], Iterator[str]]
    size: int
    note: str = ""


def _texts(request: Request) -> Texts:
    path = Path(request.corpus)
    if path.is_file() and chosen_format(str(path), request.reading()) == "archive":
        return _in_archive(path)
    found = _in_folder(request, path)
    return Texts(
        names=list(found.files),
        formats={chosen_format(str(file), request.reading()) for file in found.files},
        documents=lambda names, reading: (text for name in names for text in read_documents(Path(name), reading)),
        size=sum(file.stat().st_size for file in found.files),
        note=found.choice.note(str(path), "files") if found.choice else "",
    )


def _in_archive(path: Path) -> Texts:
    archive = open_archive(path)
    _refuse_nothing(path, archive.choice, "members")
    return Texts(
        names=[PurePosixPath(name) for name in archive.choice.names],
        formats={str(format_of(name)) for name in archive.choice.names},
        documents=lambda names, reading: finished(archive.documents([name.as_posix() for name in names], reading)),
        size=archive.size,
        note=archive.choice.note(str(path), "members"),
    )


def _in_folder(request: Request, path: Path) -> Found:
    found = find_files(path, lambda file: request.format != "auto" or format_of(file.name) is not None)
    if found.choice:
        _refuse_nothing(path, found.choice, "files")
    return found


def _refuse_nothing(path: Path, choice: Choice, noun: str) -> None:
    if not choice.names:
        left = f" ({choice.missing(noun)})" if choice.shown else ""
        raise RequestError(f"{path} holds no file that can be read{left}; known endings: {', '.join(ENDINGS)}")


def _open(request: Request) -> Source:
    path = Path(request.corpus)
    texts = _texts(request)
    splits = file_splits(texts.names)
    if texts.names != [path] and not any(splits.values()) and path.is_file():
        splits = dict.fromkeys(texts.names, file_splits([path])[path])  # an archive may be named for a split
    named = {split for split in splits.values() if split in ("validation", "test")}
    _refuse_idle(request, path, texts.formats, bool(named))
    reading = _reading(request, texts, bool(named))
    grouped = {split: [name for name in texts.names if (splits[name] or "train") == split] for split in SPLITS}
    whole = partial(texts.documents, texts.names, reading)
    source = Source(
        location=str(path),
        revision=None,
        splits={split: partial(texts.documents, group, reading) for split, group in grouped.items() if group}
        if named
        else (by_tail if request.hold_out == "tail" else by_share)(whole),
        size=texts.size,
        notes=tuple(filter(None, [texts.note, _said(request, grouped, named), _separation(reading, texts.formats)])),
        tally=reading.tally,
    )
    if next(whole(), None) is None:
        left = "; ".join(filter(None, [texts.note if "left out" in texts.note else "", *reading.tally.remarks()]))
        raise RequestError(f"{path} holds no text: it is empty, or nothing but white space{left and f' ({left})'}")
    source = source.only(request.split)
    _refuse_too_few(request, texts.formats, source, whole)
    return source


def _refuse_too_few(request: Request, formats: set[str], source: Source, whole: Documents) -> None:
    """RequestError where no document falls into the split that is needed, before a tokenizer is learnt."""
    needed = request.split or "train"
    if needed not in source.splits or request.hold_out == "tail" or next(source.splits[needed](), None) is not None:
        return
    found = sum(1 for _ in whole())
    finer = "cut it finer (--documents line), " if formats - set(RECORDS) else ""
    raise RequestError(
        f"{request.corpus} has {found} document{'s' * (found != 1)}, too few to fill {needed}; {finer}hold out its end "
        "(--hold-out tail), or name the file for its split (my.test.txt)"
    )


def _refuse_idle(request: Request, path: Path, formats: set[str], named: bool) -> None:
    """RequestError for an option that has no effect on these files. named: their names decide about splits."""
    if named and request.hold_out != "hash":
        raise RequestError(f"--hold-out has no effect on {path}: file names decide what is held out")
    for option, value in (("--config", request.config), ("--revision", request.revision)):
        if value is not None:
            raise RequestError(f"{option} has no effect on {path}: it is for datasets of the hub")
    if request.field is not None and not formats & {*RECORDS, "archive"}:
        raise RequestError(f"--field has no effect on {path}: it is text, without fields")
    if request.documents != "auto" and not formats & {"text", "archive"}:
        raise RequestError(f"--documents has no effect on {path}: each record is a document")


def _reading(request: Request, texts: Texts, named: bool) -> ReadOptions:
    if request.documents == "auto" and len(texts.names) > 1 and not named and "text" in texts.formats:
        return replace(request.reading(), documents="file")
    return request.reading()


def _said(request: Request, grouped: dict[str, list[PurePath]], named: set[str]) -> str:
    """How the splits were made."""
    if named:
        groups = {split: listed([name.name for name in names], 3) for split, names in grouped.items() if names}
        return "splits by file names: " + "; ".join(f"{split} {names}" for split, names in groups.items())
    if request.hold_out == "tail":
        return "splits by place: train the first 90 % of the characters, validation the rest (--hold-out)"
    return "splits by a hash of each document: train 90 %, validation 5 %, test 5 % (--hold-out)"


def _separation(reading: ReadOptions, formats: set[str]) -> str:
    """What separates documents."""
    if "text" not in formats:
        return ""
    how = {"auto": "blank lines, or line ends in a file without blank lines", "blank": "blank lines"}
    how |= {"line": "line ends", "file": "files"}
    return f"documents of text files are separated by {how.get(reading.documents, reading.documents)} (--documents)"
