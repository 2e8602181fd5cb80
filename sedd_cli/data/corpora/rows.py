"""Benchmarks whose documents are rows: lines of their original files, or rows of their hub copy."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from sedd_cli.data.corpora.base import SPLITS, Corpus, Request, Source, one_after_another
from sedd_cli.data.corpora.download import download
from sedd_cli.data.corpora.files import files_under, identity_of, named_split
from sedd_cli.data.corpora.hub import HubCopy, UnreachableError, open_copies, rows_of
from sedd_cli.data.formats import ReadOptions, format_of, read_lines, read_rows
from sedd_cli.errors import RequestError, listed
from sedd_cli.system.documents import is_plain_name

_RECORDS = ("jsonl", "parquet")
#: The number of a shard in a file's name: before "-of-", or in front of the endings.
_SHARD = re.compile(r"\d+(?=(-of-\d+)?(\.(jsonl|ndjson|parquet|gz|xz|bz2))+$)")


@dataclass(frozen=True)
class RowBenchmark:
    """How to read one such benchmark.

    copies: hub datasets in order of preference. accepts(path): whether a local file belongs to it. row: turns a line of
    the original files into a row of the hub copy. files: names of the original files, for messages. url: of the
    original file of its only split, tried last. warning: shown to the user. many_files: a split may have several
    original files.
    """

    name: str
    copies: tuple[HubCopy, ...]
    accepts: Callable[[Path], bool]
    row: Callable[[str], str]
    files: str
    url: str | None = None
    split_of: Callable[[str], str | None] = named_split
    warning: str | None = None
    many_files: bool = False

    def open(self, request: Request) -> Source:
        """The local files if given, else the hub's copy."""
        source = self._local(request, Path(request.local)) if request.local else self._remote(request)
        return source.only(request.split)

    def identity(self, request: Request) -> str:
        """The identity of the files, or of the hub copy."""
        if request.local:
            return identity_of(Path(request.local), self._files(self._folder(request, Path(request.local))))
        return f"{self.copies[0].id}@{request.revision or self.copies[0].revision}"

    def corpus(self, **description: Any) -> Corpus:
        """The corpus to list under its name."""
        origin = f"https://huggingface.co/datasets/{self.copies[0].id}"
        return Corpus(
            name=self.name, origin=origin, local=self.files, open=self.open, identity=self.identity, **description
        )

    def _remote(self, request: Request) -> Source:
        try:
            location, revision, tables = open_copies(self.copies, request)
        except UnreachableError as failure:
            return self._by_url(request, failure)
        tables = {split: table for name, table in tables.items() if (split := self.split_of(name))}
        return self._source(
            location,
            revision,
            splits={split: partial(rows_of, tables[split]) for split in SPLITS if split in tables},
            counts={split: len(table) for split, table in tables.items()},
            size=sum(table.data.nbytes for table in tables.values()),
        )

    def _by_url(self, request: Request, failure: UnreachableError) -> Source:
        try:
            if self.url is None:
                raise failure
            return self._local(request, download(self.url))
        except UnreachableError as last:
            tried = str(failure) if last is failure else f"{failure}; {last}"
            raise RequestError(
                f"{self.name} could not be reached ({tried}); give a local copy: "
                f"sedd prepare {self.name} --from PATH, where PATH is {self.files} or a folder that holds them"
            ) from last

    def _local(self, request: Request, path: Path) -> Source:
        path = self._folder(request, path)
        files = self._files(path)
        reading = request.reading(self.copies[0].field)
        names = {file: self.split_of(_name_below(path, file)) for file in files}
        if unknown := [file for file, split in names.items() if split is None]:
            raise RequestError(f"{unknown[0]}: no split is named in it; {self.name} has {self.files}")
        grouped = {split: [file for file in files if names[file] == split] for split in SPLITS}
        self._refuse_mixtures(path, grouped)
        return self._source(
            str(path),
            None,
            splits={
                split: one_after_another([partial(self._read, file, reading) for file in group])
                for split, group in grouped.items()
                if group
            },
            size=sum(file.stat().st_size for file in files),
            notes=(f"{self.name} is read from {path}: {listed([file.name for file in files], 5)}",),
            tally=reading.tally,
        )

    def _folder(self, request: Request, path: Path) -> Path:
        """Of a copy of the hub's repository the folder of the configuration; any other path as it is."""
        config = request.config or self.copies[0].config or ""
        return path / config if is_plain_name(config) and (path / config).is_dir() else path

    def _refuse_mixtures(self, path: Path, grouped: dict[str, list[Path]]) -> None:
        """Two sets of files for one split are two corpora (WikiText-2 beside WikiText-103), or one twice."""
        for split, group in grouped.items():
            sets = {self._set_of(file): str(file) for file in reversed(group)}
            if len(sets) > 1:
                name = "name one folder" if len({file.parent for file in group}) > 1 else "name one"
                raise RequestError(
                    f"{path} holds more than one file for {split}: {listed(sorted(sets.values()), 5)}; {name}"
                )

    def _set_of(self, file: Path) -> object:
        """What the files of one split share: records the folder, and the name but for a shard's number."""
        if format_of(file.name) not in _RECORDS:
            return "original" if self.many_files else file
        return (file.parent, "" if self.many_files else _SHARD.sub("", file.name, count=1))

    def _source(self, location: str, revision: str | None, **found: Any) -> Source:
        return Source(location, revision, remarks=(self.warning,) if self.warning else (), **found)

    def _files(self, path: Path) -> list[Path]:
        files = files_under(path, lambda file: self.accepts(file) or format_of(file.name) in _RECORDS)
        if not files:
            raise RequestError(f"{path} holds none of {self.name}'s files: {self.files}")
        # original files of records (LAMBADA's) come before others beside them, such as translations
        return [file for file in files if self.accepts(file) and format_of(file.name) in _RECORDS] or files

    def _read(self, file: Path, reading: ReadOptions) -> Iterator[str]:
        if format_of(file.name) in _RECORDS:
            return read_rows(file, reading)
        return (self.row(line) for line in read_lines(file, reading))


def _name_below(root: Path, file: Path) -> str:
    """The file's path below the given folder: a folder's name can also name the split."""
    return file.relative_to(root).as_posix() if root.is_dir() else file.name
