"""The manifest of prepared text: its source, the options it was made with, its content."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sedd_cli.errors import DamageError, RequestError, displayed
from sedd_cli.system.digests import digest
from sedd_cli.system.documents import is_plain_name, read_json
from sedd_cli.system.files import write_whole
from sedd_cli.system.json_lines import json_text

FILE = "manifest.json"
FORMAT = 1
#: What a text may be divided into.
SPLITS = ("train", "validation", "test")
#: Most characters of a name or a path in it.
LONGEST = 1 << 14


@dataclass(frozen=True)
class ShardInfo:
    """One file of token ids and the file of its document ends.

    `file` holds `tokens` little-endian ids; `index` holds, for each of `documents`, the end of its ids in this shard
    as a little-endian uint64.
    """

    file: str
    tokens: int
    sha256: str
    index: str
    documents: int
    index_sha256: str


@dataclass(frozen=True)
class SplitInfo:
    """Content of one split.

    `characters` and `bytes` (UTF-8) count the detokenized text without separators; `tokens` includes the separators;
    `unknown` counts ids of what the vocabulary lacks.
    """

    documents: int
    tokens: int
    characters: int
    bytes: int
    unknown: int
    shards: tuple[ShardInfo, ...]


@dataclass(frozen=True)
class Manifest:
    """The description of a prepared corpus.

    source, revision: where the text came from, and its version.
    tokenizer, tokenizer_fingerprint: as `Tokenizer.spec` and `Tokenizer.fingerprint`.
    options: every option that changes the result, as the user gave it.
    dtype: "uint16" or "uint32". fingerprint: sha256 over everything that determines the tokens. remarks: what names,
    endings and the tokenizer decided, and what was left out or lost, in sentences. warnings: those of the remarks that
    are repeated whenever the corpus is used.
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
    remarks: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    def sealed(self) -> Manifest:
        """This manifest with its fingerprint filled in."""
        splits = {name: dataclasses.asdict(self.splits[name]) for name in sorted(self.splits)}
        content = {"tokenizer": self.tokenizer_fingerprint, "dtype": self.dtype, "splits": splits}
        return dataclasses.replace(self, fingerprint=digest(content))

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as `manifest.json` holds them."""
        found = {"format": FORMAT, **dataclasses.asdict(self)}
        if not self.warnings:
            del found["warnings"]
        return found

    def write(self, folder: Path) -> None:
        """Write `manifest.json` into `folder`."""
        text = json_text(self.to_dict(), indent=2)
        write_whole(folder / FILE, text + "\n")


def _check(manifest: Manifest) -> None:
    """ValueError or TypeError where a field has no value that a manifest of ours could have."""
    for field in dataclasses.fields(manifest):
        value = getattr(manifest, field.name)
        if field.type == "str" and (not isinstance(value, str) or len(value) > LONGEST):
            raise TypeError(f"{field.name} is no text of at most {LONGEST:,} characters but {displayed(value)}")
    if not isinstance(manifest.options, dict) or not isinstance(manifest.revision, str | None):
        raise TypeError("options or revision")
    if manifest.dtype not in ("uint16", "uint32"):
        raise ValueError(f"dtype {displayed(manifest.dtype)}")
    if other := manifest.splits.keys() - set(SPLITS):
        raise ValueError(f"its splits are none of {', '.join(SPLITS)}: {displayed(sorted(other))}")
    for split in manifest.splits.values():
        counts = [split.documents, split.tokens, split.characters, split.bytes, split.unknown]
        for shard in split.shards:
            counts += [shard.tokens, shard.documents]
            for name in (shard.file, shard.index):
                if not is_plain_name(name):
                    raise ValueError(f"it names {displayed(name)}, no file of its own folder")
        if not all(type(count) is int and 0 <= count < 2**63 for count in counts):
            raise ValueError("a number in it is no count")


def read_manifest(folder: Path) -> Manifest:
    """The manifest in `folder`. RequestError where there is none, DamageError where it was changed."""
    file = folder / FILE
    if not file.is_file():
        raise RequestError(f"{folder} is no prepared corpus: {FILE} is missing; make one with sedd prepare")
    try:
        record = read_json(file)
        found = record.pop("format")
        if found != FORMAT:
            raise RequestError(f"{file} has format {displayed(found)}; this version reads {FORMAT}: prepare it again")
        splits = {
            name: SplitInfo(**{**split, "shards": tuple(ShardInfo(**shard) for shard in split["shards"])})
            for name, split in record.pop("splits").items()
        }
        remarks, warnings = (tuple(map(str, record.pop(key, ()))) for key in ("remarks", "warnings"))
        manifest = Manifest(**record, splits=splits, remarks=remarks, warnings=warnings)
        _check(manifest)
    except (RequestError, DamageError):
        raise
    except (AttributeError, KeyError, TypeError, ValueError, OverflowError) as error:
        raise DamageError(f"{file} is damaged: {error}") from error
    if manifest.sealed().fingerprint != manifest.fingerprint:
        raise DamageError(f"{file} was changed: its content does not fit its fingerprint {manifest.fingerprint[:12]}…")
    return manifest
