"""Datasets of the Hugging Face hub, at a recorded revision."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from sedd_cli.data.corpora.base import SPLITS, Corpus, Request, Source, by_share
from sedd_cli.data.corpora.files import named_split
from sedd_cli.data.formats.parquet import texts_of
from sedd_cli.data.formats.records import DEFAULT_FIELD, no_such_field
from sedd_cli.errors import RequestError, WorkError, disk_full, first_line, listed

_ROWS = 1024
_TIMEOUT = 20.0
_ID = re.compile(r"[\w.-]+/[\w.-]+")


@dataclass(frozen=True)
class HubCopy:
    """A dataset on the hub: namespaced id, configuration, the column that holds the text, and a revision."""

    id: str
    config: str | None = None
    field: str = DEFAULT_FIELD
    revision: str = "main"


class UnreachableError(Exception):
    """A copy cannot be read now; the message gives the reason in a few words."""


def open_copies(copies: Sequence[HubCopy], request: Request) -> tuple[str, str | None, dict[str, Any]]:
    """(location, revision, {hub's split name: datasets.Dataset with one column}) of the first copy that answers.

    Raises UnreachableError with the reason of each copy.
    """
    failures = []
    for copy in copies:
        try:
            return _open_copy(copy, request)
        except UnreachableError as failure:
            failures.append(f"https://huggingface.co/datasets/{copy.id}: {failure}")
    raise UnreachableError("; ".join(failures))


def _open_copy(copy: HubCopy, request: Request) -> tuple[str, str | None, dict[str, Any]]:
    revision = _revision(copy.id, request.revision or copy.revision)
    config = request.config or copy.config
    field = request.field or copy.field
    location = f"hf://datasets/{copy.id}" + (f" ({config})" if config else "")
    tables = {name: _column(table, field, location) for name, table in _load(copy.id, config, revision).items()}
    return location, revision, tables


def _revision(name: str, asked: str) -> str | None:
    """The present commit of a branch or tag."""
    from huggingface_hub import HfApi

    try:
        return HfApi().dataset_info(name, revision=asked, timeout=_TIMEOUT).sha
    except Exception as error:  # the hub's own, its HTTP client's, the system's: the remedy is the same
        raise UnreachableError(f"{type(error).__name__}: {first_line(error)}") from error


def _load(name: str, config: str | None, revision: str | None) -> dict[str, Any]:
    """All splits, downloaded and memory-mapped."""
    import datasets
    import datasets.config

    try:
        loaded: Any = datasets.load_dataset(name, config, revision=revision)
        return dict(loaded)
    except ValueError as error:  # an unknown or missing configuration: the message lists them
        raise RequestError(f"{name}: {' '.join(str(error).split())}; choose one with --config") from error
    except Exception as error:
        if disk_full(error):
            raise WorkError(
                f"no space left for {name} in {datasets.config.HF_DATASETS_CACHE}: "
                "set HF_HOME to a folder on a larger disk"
            ) from error
        raise UnreachableError(f"{type(error).__name__}: {first_line(error)}") from error


def _column(table: Any, field: str, where: str) -> Any:
    if field not in table.column_names:
        raise RequestError(no_such_field(field, table.column_names, where))
    return table.select_columns([field])


def rows_of(table: Any) -> Iterator[str]:
    """The texts of a dataset with one column."""
    (field,) = table.column_names
    for part in table.with_format("arrow").iter(_ROWS):
        yield from texts_of(part.column(field), field, "the hub's copy")


def is_hub_id(name: str) -> bool:
    """Whether a name has the form namespace/dataset."""
    return _ID.fullmatch(name) is not None


def hub_corpus(request: Request) -> Corpus:
    """The corpus that a hub id names."""
    return Corpus(
        name=request.corpus.replace("/", "--"),
        about="a dataset of the hub",
        size="",
        licence="see its page",
        tokenizer="gpt2",
        origin=f"https://huggingface.co/datasets/{request.corpus}",
        open=_open,
        identity=lambda request: f"{request.corpus}@{request.revision or 'main'}",
    )


def _open(request: Request) -> Source:
    try:
        location, revision, tables = open_copies([HubCopy(request.corpus)], request)
    except UnreachableError as failure:
        raise RequestError(
            f"could not read {failure}; check the name and the network, or download its files and give their folder"
        ) from failure
    if request.split is not None:
        if request.split not in tables:
            raise RequestError(f"there is no split {request.split!r} in {location}; it has {', '.join(tables)}")
        tables = {request.split: tables[request.split]}
    names = {split: [name for name in tables if named_split(name) == split] for split in SPLITS}
    left = [name for name in tables if named_split(name) is None]
    if len(tables) == 1 and (left or (names["train"] and request.split is None)):
        (table,) = tables.values()
        return Source(location, revision, by_share(partial(rows_of, table)), size=table.data.nbytes)
    for split, several in names.items():
        if len(several) > 1:
            found = listed(several)
            raise RequestError(f"{location} has {len(several)} splits for {split}: {found}; name one (--split)")
    named = {split: tables[several[0]] for split, several in names.items() if several}
    if not named:
        raise RequestError(f"{location} has no split for training or evaluation but {listed(left)}; name one (--split)")
    return Source(
        location,
        revision,
        splits={split: partial(rows_of, table) for split, table in named.items()},
        counts={split: len(table) for split, table in named.items()},
        size=sum(table.data.nbytes for table in named.values()),
        notes=(f"splits of other names are left out: {listed(left)} (--split)",) if left else (),
    )
