"""The user's own text: a file, or a folder of files.

Splits: where a file is named for evaluation (a word of its name is valid, validation, val, dev, heldout or
test), names decide, and a file that names no split is for training. Otherwise documents are dealt out 90/5/5 by
a hash of their text. In a folder without split names, each text file is one document.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

from sedd_cli.data.corpora.base import SPLITS, Corpus, Documents, Request, Source, by_share, one_after_another
from sedd_cli.data.corpora.files import files_under, identity_of, named_split
from sedd_cli.data.formats import READERS, ReadOptions, read_documents
from sedd_cli.errors import RequestError


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


def _identity(request: Request) -> str:
    return identity_of(Path(request.corpus), _files(request))


def _files(request: Request) -> list[Path]:
    path = Path(request.corpus)
    files = files_under(path, lambda file: file.suffix.lower() in READERS)
    if not files:
        raise RequestError(f"{path} holds no file that can be read; known endings: {', '.join(READERS)}")
    return files


def _open(request: Request) -> Source:
    path = Path(request.corpus)
    files = _files(request)
    reading = _reading(request, files)
    readers = {file: partial(read_documents, file, reading) for file in files}
    source = Source(
        location=str(path),
        revision=None,
        splits=_splits(readers),
        size=sum(file.stat().st_size for file in files),
    )
    if all(next(reader(), None) is None for reader in readers.values()):
        raise RequestError(f"{path} holds no text: it is empty, or nothing but white space")
    return source.only(request.split)


def _reading(request: Request, files: list[Path]) -> ReadOptions:
    a_folder_of_articles = len(files) > 1 and not any(named_split(file.name) for file in files)
    if request.documents == "auto" and a_folder_of_articles:
        return ReadOptions(request.field, request.encoding, "file")
    return request.reading()


def _splits(readers: dict[Path, Documents]) -> dict[str, Documents]:
    names = {file: named_split(file.name) for file in readers}
    if not {"validation", "test"} & set(names.values()):
        return by_share(one_after_another(list(readers.values())))
    grouped = {split: [readers[file] for file in readers if (names[file] or "train") == split] for split in SPLITS}
    return {split: one_after_another(group) for split, group in grouped.items() if group}
