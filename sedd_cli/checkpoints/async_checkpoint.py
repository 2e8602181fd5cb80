"""Checkpoints written by a thread while training continues, from a copy of the tensors."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

from torch import Tensor

from sedd_cli.checkpoints.draft import Draft, Writer, failure, write_shards
from sedd_cli.errors import of_this_process
from sedd_cli.system.distributed import Dist


@dataclass
class AsyncCheckpoint:
    """Writes one checkpoint at a time. All processes call `start` and `finish`; the main process commits."""

    run: Path
    dist: Dist
    sharded: bool
    keep: int
    keep_every: int | None
    pinned: frozenset[int] = frozenset()
    _thread: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1, thread_name_prefix="saver"))
    _pending: tuple[int, Future[Path | None]] | None = None

    def __post_init__(self) -> None:
        from torch.distributed.checkpoint.staging import DefaultStager, StagingOptions

        # the stager reuses its buffers; pinned memory for a whole model would be too much for small machines
        plain = {"use_pinned_memory": False, "use_shared_memory": False, "use_non_blocking_copy": False}
        self._stager = DefaultStager(StagingOptions(use_async_staging=False, **plain))

    def start(self, step: int, tensors: dict[str, Tensor], files: dict[str, Writer]) -> None:
        """Copy the tensors and start writing; the previous checkpoint must be finished.

        The main process writes replicated tensors, each process its shards of sharded ones.
        """
        writes = self.sharded or self.dist.main
        copy = cast("dict[str, Tensor]", self._stager.stage(tensors)) if writes else {}
        self._pending = (step, self._thread.submit(self._write, step, copy, files if self.dist.main else {}))

    @property
    def over(self) -> bool:
        """Whether writing the pending checkpoint has ended on this process, successfully or not."""
        return self._pending is not None and self._pending[1].done()

    @property
    def failed(self) -> bool:
        """Whether writing the pending checkpoint failed on this process."""
        return self._pending is not None and self.over and self._pending[1].exception() is not None

    def finish(self) -> tuple[int, Path] | None:
        """Wait for the pending checkpoint and return its (step, folder) on the main process; WorkError if it failed."""
        if self._pending is None:
            return None
        (step, future), self._pending = self._pending, None
        try:
            folder = future.result()
        except Exception as error:  # torch wraps errors of the disk in its own classes
            raise of_this_process(failure(error, self.run)) from None
        return None if folder is None else (step, folder)

    def __enter__(self) -> AsyncCheckpoint:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Release thread and buffers. Waits for a pending checkpoint, except after a second Ctrl-C."""
        self._thread.shutdown(wait=kind is not KeyboardInterrupt)
        self._stager.close()

    def _write(self, step: int, tensors: dict[str, Tensor], files: dict[str, Writer]) -> Path | None:
        draft = Draft(self.run, step)
        try:
            if self.dist.main:
                draft.begin()
            if self.sharded or self.dist.main:
                write_shards(draft.folder, tensors, self.dist.saving if self.sharded else None)
            return draft.commit(files, self.keep, self.keep_every, self.pinned) if self.dist.main else None
        except BaseException:
            if self.dist.main:
                draft.drop()
            raise
