"""Prepared text, read from memory maps: a dataset has splits, and a split is one array of token ids over shards."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

import numpy as np

from sedd_cli.data.manifest import Manifest, SplitInfo, read_manifest
from sedd_cli.data.tokenizers import Tokenizer, open_tokenizer
from sedd_cli.errors import DamageError, RequestError
from sedd_cli.system.digests import sha256_of

INDEX_DTYPE = np.dtype("<u8")


class TokenArray:
    """The ids of one split, [tokens], across its shards; memory holds only what is read."""

    def __init__(self, folder: Path, name: str, info: SplitInfo, dtype: str):
        self.folder = folder
        self.name = name
        self.info = info
        self.tokens = info.tokens
        self.characters = info.characters
        self.documents = info.documents
        self._dtype = np.dtype(dtype).newbyteorder("<")
        # shard k holds ids self._edges[k] to self._edges[k + 1]
        self._edges = np.concatenate([[0], np.cumsum([shard.tokens for shard in info.shards], dtype=np.int64)])

    @cached_property
    def _maps(self) -> list[np.ndarray]:
        return [np.memmap(self.folder / shard.file, dtype=self._dtype, mode="r") for shard in self.info.shards]

    def read(self, start: int, stop: int) -> np.ndarray:
        """Ids start to stop, int64 [stop - start]. Raises IndexError outside [0, tokens]."""
        return self.rows(np.array([start]), stop - start)[0]

    def rows(self, starts: np.ndarray, length: int) -> np.ndarray:
        """The `length` ids from each of `starts` [n], int64 [n, length]. Raises IndexError outside [0, tokens]."""
        if length < 0 or (starts.size and (starts.min() < 0 or starts.max() + length > self.tokens)):
            raise IndexError(f"{length} ids from {starts.min()}…{starts.max()} of a split with {self.tokens}")
        out = np.empty((starts.size, length), dtype=np.int64)
        shards = np.searchsorted(self._edges, starts, side="right") - 1
        for row, start, shard in zip(out, starts.tolist(), shards.tolist(), strict=True):
            done = 0
            while done < length:
                offset = start + done - int(self._edges[shard])
                part = self._maps[shard][offset : offset + length - done]
                row[done : done + part.size] = part
                done += part.size
                shard += 1
        return out

    def document_ends(self) -> np.ndarray:
        """End of each document, its separator included, int64 [documents]."""
        ends = [
            np.fromfile(self.folder / shard.index, dtype=INDEX_DTYPE).astype(np.int64) + edge
            for shard, edge in zip(self.info.shards, self._edges[:-1], strict=True)
        ]
        return np.concatenate([np.empty(0, np.int64), *ends])


def token_counts(split: TokenArray, size: int, stop: int) -> np.ndarray:
    """How often each id below `size` occurs among the first `stop` ids of a split, int64 [size]."""
    found = np.zeros(size, dtype=np.int64)
    for start in range(0, stop, 1 << 20):
        found += np.bincount(split.read(start, min(start + (1 << 20), stop)), minlength=size)
    return found


class Dataset:
    """A prepared corpus on disk."""

    def __init__(self, folder: Path, manifest: Manifest):
        self.folder = folder
        self.manifest = manifest

    @property
    def splits(self) -> tuple[str, ...]:
        """Names of its splits, among train, validation, test."""
        return tuple(self.manifest.splits)

    @property
    def default_split(self) -> str:
        """The split that is evaluated unless one is named: test, else validation, else train."""
        return next((name for name in ("test", "validation") if name in self.splits), "train")

    def split(self, name: str) -> TokenArray:
        """The ids of one split; RequestError lists the existing splits."""
        if name not in self.manifest.splits:
            raise RequestError(
                f"{self.manifest.corpus} has no split {name!r} in {self.folder}; it has {', '.join(self.splits)}"
            )
        return TokenArray(self.folder, name, self.manifest.splits[name], self.manifest.dtype)

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer that made the ids, opened from the folder on first use."""
        tokenizer = open_tokenizer(self.folder)
        if tokenizer.fingerprint != self.manifest.tokenizer_fingerprint:
            raise DamageError(f"{self.folder}: its tokenizer does not match its manifest")
        return tokenizer


def open_dataset(folder: Path) -> Dataset:
    """The prepared corpus in `folder`. Sizes of all files are checked; `verify_file` reads their bytes too.

    Raises RequestError where there is none, DamageError where a file is missing or cut short.
    """
    manifest = read_manifest(folder)
    for file, size, _ in listed_files(manifest):
        path = folder / file
        if not path.is_file():
            raise DamageError(f"{path} is missing: delete {folder} and prepare the corpus again")
        if path.stat().st_size != size:
            found = path.stat().st_size
            raise DamageError(f"{path} has {found} bytes instead of {size}: delete {folder} and prepare it again")
    return Dataset(folder, manifest)


def verify_file(path: Path, sha256: str) -> None:
    """Read one file and compare its sha256; DamageError if it was changed."""
    if sha256_of(path) != sha256:
        raise DamageError(f"{path} was changed after it was prepared: its sha256 is not {sha256[:12]}…")


def listed_files(manifest: Manifest) -> list[tuple[str, int, str]]:
    """(file, bytes, sha256) of every file in the manifest."""
    itemsize = np.dtype(manifest.dtype).itemsize
    shards = [shard for split in manifest.splits.values() for shard in split.shards]
    tokens = [(shard.file, shard.tokens * itemsize, shard.sha256) for shard in shards]
    return tokens + [(shard.index, shard.documents * INDEX_DTYPE.itemsize, shard.index_sha256) for shard in shards]
