"""Writing shards one by one; a shard is complete when it is hashed and on disk."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import numpy as np

from sedd_cli.data.manifest import ShardInfo, SplitInfo
from sedd_cli.data.shards import INDEX_DTYPE
from sedd_cli.system.documents import read_json
from sedd_cli.system.files import naming, sync, write_whole

SHARD_TOKENS = 1 << 26
STATE = "finished.json"


@dataclass(frozen=True)
class Encoded:
    """A group of documents as ids: `ids` [tokens] with separators, `ends` [documents] within `ids`, and counts."""

    ids: np.ndarray
    ends: np.ndarray
    characters: int
    bytes: int
    unknown: int


@dataclass
class SplitWriter:
    """Appends encoded groups to the shards of one split.

    A shard closes with the group that reaches `shard_tokens`, so that the ends of shards depend on the text alone.
    Closed shards are listed in `finished.json`; others are written again.
    """

    folder: Path
    name: str
    dtype: str
    shard_tokens: int = SHARD_TOKENS
    done: list[dict] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._state = self.folder / f"{self.name}.{STATE}"
        if self._state.is_file():
            self.done = read_json(self._state)
        self._itemtype = np.dtype(self.dtype).newbyteorder("<")
        self._open_shard()

    @property
    def documents(self) -> int:
        """Documents in finished shards, after which an interrupted run resumes."""
        return sum(entry["shard"]["documents"] for entry in self.done)

    @property
    def tokens(self) -> int:
        """Tokens written so far, including the open shard."""
        return self._tokens + sum(entry["shard"]["tokens"] for entry in self.done)

    @property
    def text_bytes(self) -> int:
        """Bytes of the text of `tokens`."""
        return self._bytes + sum(entry["bytes"] for entry in self.done)

    def _open_shard(self) -> None:
        self._stream: BinaryIO | None = None
        self._hash = hashlib.sha256()
        self._tokens = self._characters = self._bytes = self._unknown = 0
        self._ends: list[np.ndarray] = []

    @property
    def _file(self) -> str:
        return f"{self.name}-{len(self.done):05d}.bin"

    def append(self, group: Encoded) -> None:
        """Write one group; closes the shard when it is full."""
        raw = group.ids.astype(self._itemtype).tobytes()
        with naming(self.folder / self._file):
            if self._stream is None:
                self._stream = (self.folder / self._file).open("wb")
            self._stream.write(raw)
        self._hash.update(raw)
        self._ends.append(group.ends.astype(INDEX_DTYPE) + np.uint64(self._tokens))
        self._tokens += group.ids.size
        self._characters += group.characters
        self._bytes += group.bytes
        self._unknown += group.unknown
        if self._tokens >= self.shard_tokens:
            self._close_shard()

    def _close_shard(self) -> None:
        assert self._stream is not None, "only an open shard is closed"
        with naming(self.folder / self._file):
            sync(self._stream)
        ends = np.concatenate(self._ends)
        index = f"{self.name}-{len(self.done):05d}.idx"
        with naming(self.folder / index), (self.folder / index).open("wb") as stream:
            stream.write(ends.tobytes())
            sync(stream)
        shard = ShardInfo(
            file=self._file,
            tokens=self._tokens,
            sha256=self._hash.hexdigest(),
            index=index,
            documents=ends.size,
            index_sha256=hashlib.sha256(ends.tobytes()).hexdigest(),
        )
        counts = {"characters": self._characters, "bytes": self._bytes, "unknown": self._unknown}
        self.done.append({"shard": dataclasses.asdict(shard), **counts})
        write_whole(self._state, json.dumps(self.done))
        self._open_shard()

    def finish(self) -> SplitInfo:
        """Close the last shard. Returns the content of the split."""
        if self._stream is not None:
            self._close_shard()
        shards = tuple(ShardInfo(**entry["shard"]) for entry in self.done)
        return SplitInfo(
            documents=sum(shard.documents for shard in shards),
            tokens=sum(shard.tokens for shard in shards),
            characters=sum(entry["characters"] for entry in self.done),
            bytes=sum(entry["bytes"] for entry in self.done),
            unknown=sum(entry["unknown"] for entry in self.done),
            shards=shards,
        )

    def abandon(self) -> None:
        """Delete the open shard; finished ones stay for the next run."""
        if self._stream is not None:
            with suppress(OSError):  # what is buffered cannot be written either
                self._stream.close()
            (self.folder / self._file).unlink(missing_ok=True)
            self._open_shard()
