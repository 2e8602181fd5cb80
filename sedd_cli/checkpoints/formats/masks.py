"""The id of MASK: as the user names it, as config.json declares it, or as the files of a tokenizer do."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from sedd_cli.checkpoints.formats.base import CONFIG, ModelFiles
from sedd_cli.errors import RequestError, displayed
from sedd_cli.system.documents import TOKENIZER_BYTES, read_json


def mask_id(source: ModelFiles, rows: int, named: str | None = None) -> int:
    """The id of MASK, below `rows`. named: an id or a token, from the user.

    Raises:
        RequestError: there is none, or it is not among the rows.
    """
    if named is not None:
        found, where = int(named) if named.isdigit() else _id_of(source.folder, named), "--mask-token"
        if found is None:
            raise RequestError(f"--mask-token {displayed(named)} is no token of the tokenizer in {source.folder}")
    elif (found := source.config.get("mask_token_id")) is not None:
        where = f"{source.folder / CONFIG}: mask_token_id"
    else:
        token = _read(source.folder / "tokenizer_config.json").get("mask_token")
        token = token.get("content") if isinstance(token, Mapping) else token
        found, where = _id_of(source.folder, token) if isinstance(token, str) else None, "mask_token of the tokenizer"
        if found is None:
            raise RequestError(
                f"{source.name}: no MASK: {CONFIG} has no mask_token_id and tokenizer_config.json no mask_token; name "
                "it with --mask-token"
            )
    if type(found) is not int or not 0 <= found < rows:
        raise RequestError(f"{where} must be one of the model's {rows:,} ids, found {displayed(found)}")
    return found


def _id_of(folder: Path, token: str) -> int | None:
    """The id of a token in the files of a tokenizer; None if they do not have it."""
    return next((id for spelled, id in _tokens(folder) if spelled == token and type(id) is int), None)


def _tokens(folder: Path) -> Iterator[tuple[Any, Any]]:
    """Tokens and ids, added ones first."""
    added = _read(folder / "tokenizer_config.json").get("added_tokens_decoder")
    if isinstance(added, Mapping):
        for id, entry in added.items():
            if isinstance(entry, Mapping) and str(id).isdigit():
                yield entry.get("content"), int(id)
    yield from _read(folder / "added_tokens.json").items()
    engine = _read(folder / "tokenizer.json")
    for entry in engine.get("added_tokens") or ():
        if isinstance(entry, Mapping):
            yield entry.get("content"), entry.get("id")
    for vocabulary in ((engine.get("model") or {}).get("vocab"), _read(folder / "vocab.json")):
        if isinstance(vocabulary, Mapping):
            yield from vocabulary.items()


def _read(file: Path) -> Mapping[str, Any]:
    """A file of keys and values; empty where there is none."""
    found = read_json(file, TOKENIZER_BYTES) if file.is_file() else {}
    return found if isinstance(found, Mapping) else {}
