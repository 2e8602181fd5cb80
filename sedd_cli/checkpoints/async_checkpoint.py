"""Saving while training goes on: a copy is taken at once, a thread writes it."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor

from sedd_cli.checkpoints.checkpoint import Draft, Writer, failure, write_shards
from sedd_cli.system.distributed import Dist


@dataclass
class AsyncCheckpoint:
    """Writes one checkpoint at a time. Every process calls `start` and `finish`; the main one commits."""

    run: Path
    dist: Dist
    sharded: bool
    keep: int
    keep_every: int | None
    _thread: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1, thread_name_prefix="saver"))
    _pending: tuple[int, Future[Path | None]] | None = None

    def __post_init__(self) -> None:
        from torch.distributed.checkpoint.staging import DefaultStager, StagingOptions

        # its buffers are kept and filled anew; pinned memory for a whole model would starve small machines
        plain = {"use_pinned_memory": False, "use_shared_memory": False, "use_non_blocking_copy": False}
        self._stager = DefaultStager(StagingOptions(use_async_staging=False, **plain))

    def start(self, step: int, tensors: dict[str, Tensor], files: dict[str, Writer]) -> None:
        """Copy the tensors and begin to write; the one before must be finished.

        Replicated tensors are written by the main process, sharded ones by each process its own.
        """
        writes = self.sharded or self.dist.main
        copy = self._stager.stage(tensors) if writes else {}
        self._pending = (step, self._thread.submit(self._write, step, copy, files if self.dist.main else {}))

    @property
    def over(self) -> bool:
        """Whether the pending checkpoint is written, or has failed, on this process."""
        return self._pending is not None and self._pending[1].done()

    @property
    def failed(self) -> bool:
        """Whether the pending checkpoint has failed on this process."""
        return self.over and self._pending[1].exception() is not None

    def finish(self) -> tuple[int, Path] | None:
        """Wait for the pending checkpoint; its (step, folder) on the main process. WorkError if it failed."""
        if self._pending is None:
            return None
        (step, future), self._pending = self._pending, None
        try:
            folder = future.result()
        except Exception as error:  # torch wraps what a disk says in kinds of its own
            raise failure(error, self.run) from None
        return None if folder is None else (step, folder)

    def __enter__(self) -> AsyncCheckpoint:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Let go of the thread and the buffers; only a person in a hurry does not wait for a pending checkpoint."""
        self._thread.shutdown(wait=kind is not KeyboardInterrupt)
        self._stager.close()

    def _write(self, step: int, tensors: dict[str, Tensor], files: dict[str, Writer]) -> Path | None:
        draft = Draft(self.run, step)
        try:
            if self.dist.main:
                draft.begin()
            if self.sharded or self.dist.main:
                write_shards(draft.folder, tensors, self.dist.saving if self.sharded else None)
            return draft.commit(files, self.keep, self.keep_every) if self.dist.main else None
        except BaseException:
            if self.dist.main:
                draft.drop()
            raise
