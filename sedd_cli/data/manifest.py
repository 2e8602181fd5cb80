"""The record that stands beside prepared text: what it came from, how it was made, what it holds."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sedd_cli.errors import DamageError, RequestError
from sedd_cli.system.digests import digest
from sedd_cli.system.files import write_whole

FILE = "manifest.json"
FORMAT = 1


@dataclass(frozen=True)
class ShardInfo:
    """One file of token ids and the file of its document ends.

    `file` holds `tokens` little-endian ids; `index` holds, for each of `documents`, the position within this
    shard just behind its last id, as little-endian uint64.
    """

    file: str
    tokens: int
    sha256: str
    index: str
    documents: int
    index_sha256: str


@dataclass(frozen=True)
class SplitInfo:
    """What one split holds. `characters` and `bytes` (UTF-8) count the detokenized text without separators;
    `tokens` counts the separators too; `unknown` counts ids that stand for what the vocabulary lacks."""

    documents: int
    tokens: int
    characters: int
    bytes: int
    unknown: int
    shards: tuple[ShardInfo, ...]


@dataclass(frozen=True)
class Manifest:
    """All that is known of a prepared corpus.

    source, revision: where the text came from, and which state of it.
    tokenizer, tokenizer_fingerprint: as `Tokenizer.spec` and `Tokenizer.fingerprint`.
    options: every option that changes the result, as the user gave it.
    dtype: "uint16" or "uint32". fingerprint: sha256 over what determines the tokens, whatever their source.
    """

    corpus: str
    source: str
    revision: str | None
    tokenizer: str
    tokenizer_fingerprint: str
    detokenizer: str
    options: dict[str, Any]
    software: str
    dtype: str
    splits: dict[str, SplitInfo]
    fingerprint: str = ""

    def sealed(self) -> Manifest:
        """This manifest with its fingerprint filled in."""
        splits = {name: dataclasses.asdict(self.splits[name]) for name in sorted(self.splits)}
        content = {"tokenizer": self.tokenizer_fingerprint, "dtype": self.dtype, "splits": splits}
        return dataclasses.replace(self, fingerprint=digest(content))

    def as_dict(self) -> dict[str, Any]:
        """Plain values, as `manifest.json` holds them."""
        return {"format": FORMAT, **dataclasses.asdict(self)}

    def write(self, folder: Path) -> None:
        """Write `manifest.json` into `folder`."""
        text = json.dumps(self.as_dict(), indent=2, ensure_ascii=False)
        write_whole(folder / FILE, text + "\n")


def read_manifest(folder: Path) -> Manifest:
    """The manifest in `folder`, strictly: RequestError where none is, DamageError where it is not as written."""
    file = folder / FILE
    if not file.is_file():
        raise RequestError(f"{folder} is no prepared corpus: {FILE} is missing; make one with sedd prepare")
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
        found = record.pop("format")
        if found != FORMAT:
            raise RequestError(f"{file} has format {found!r}; this version reads format {FORMAT}: prepare it again")
        splits = {
            name: SplitInfo(**{**split, "shards": tuple(ShardInfo(**shard) for shard in split["shards"])})
            for name, split in record.pop("splits").items()
        }
        manifest = Manifest(**record, splits=splits)
    except RequestError:
        raise
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise DamageError(f"{file} is damaged: {error}") from error
    if manifest.sealed().fingerprint != manifest.fingerprint:
        raise DamageError(f"{file} was changed: its content does not fit its fingerprint {manifest.fingerprint[:12]}…")
    return manifest
