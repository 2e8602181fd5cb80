"""Writing checkpoints, and removing old ones. Each is written to a temporary folder, synced and renamed."""

from __future__ import annotations

import json
import os
import shutil
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor
from torch.distributed import ProcessGroup

from sedd_cli.checkpoints.checkpoint import LATEST, LAYOUT, MANIFEST, completed, first_cause
from sedd_cli.errors import RequestError, WorkError
from sedd_cli.system.digests import sha256_of
from sedd_cli.system.files import sync_path, write_whole
from sedd_cli.system.json_lines import json_text

Writer = Callable[[Path], None]


def write_shards(folder: Path, tensors: dict[str, Tensor], group: ProcessGroup | None) -> None:
    """Write this process's shards of the tensors into the folder; with a group, all its processes must call."""
    from torch.distributed.checkpoint.api import CheckpointException
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageWriter
    from torch.distributed.checkpoint.state_dict_saver import save

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "torch.distributed is disabled")
        writer = HuggingFaceStorageWriter(str(folder), save_distributed=True)
        writer.per_thread_copy_ahead = 0  # the tensors are on the CPU; else it waits for the first GPU there is
        try:
            save(tensors, storage_writer=writer, process_group=group, no_dist=group is None)
        except CheckpointException as error:
            raise first_cause(error) from None


@dataclass(frozen=True)
class Draft:
    """A checkpoint that is being written; readers do not see it before `commit`."""

    run: Path
    step: int

    @property
    def parent(self) -> Path:
        return self.run / "checkpoints"

    @property
    def folder(self) -> Path:
        return self.parent / f".step-{self.step}.partial"

    def begin(self) -> None:
        """Make an empty folder and remove drafts of killed processes. Another process may make the folder too."""
        for left in self.parent.glob(".step-*.partial"):
            shutil.rmtree(left, ignore_errors=left != self.folder)
        self.folder.mkdir(parents=True, exist_ok=True)

    def drop(self) -> None:
        """Remove what was written."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def commit(
        self, files: dict[str, Writer], keep: int, keep_every: int | None = None, pinned: frozenset[int] = frozenset()
    ) -> Path:
        """Add the small files and the manifest, rename the folder, point `latest` to it, and prune old checkpoints.

        Until the rename, the previous checkpoint and `latest` are untouched.
        """
        final = self.parent / f"step-{self.step}"
        for name, write in files.items():
            write(self.folder / name)
        digests = {path.name: sha256_of(path) for path in sorted(self.folder.iterdir())}
        manifest = {"layout": LAYOUT, "step": self.step, "sha256": digests}
        (self.folder / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n")
        for path in [*self.folder.iterdir(), self.folder]:
            sync_path(path)
        if final.exists():
            _remove(final)
        os.replace(self.folder, final)
        sync_path(self.parent)
        write_whole(self.run / LATEST, final.name + "\n")
        sync_path(self.run)  # after a power failure, `latest` must not name a checkpoint that is pruned
        _prune(self.parent, self.step, keep, keep_every, pinned)
        return final


def _prune(parent: Path, step: int, keep: int, keep_every: int | None, pinned: frozenset[int]) -> None:
    known = completed(parent.parent)
    behind = [c for c in known if c.step <= step]
    # later checkpoints belong to an abandoned continuation
    for old in [*behind[:-keep], *known[len(behind) :]]:
        if old.step > step or not (old.step in pinned or (keep_every and old.step % keep_every == 0)):
            _remove(old.folder)


def _remove(folder: Path) -> None:
    """Delete a checkpoint. Renamed first, it is never seen incomplete.

    The next draft removes what a kill leaves, or a file that is being read (on NFS).
    """
    doomed = folder.with_name(f".{folder.name}.old.partial")
    os.replace(folder, doomed)
    shutil.rmtree(doomed, ignore_errors=True)


def failure(error: Exception, run: Path) -> Exception:
    """The error to raise for a checkpoint that could not be written."""
    where = run / "checkpoints"
    if isinstance(error, PermissionError):
        return RequestError(f"cannot write a checkpoint to {where}: {error.strerror}")
    reason = " ".join(str(error).split())[-300:]
    return WorkError(f"cannot write a checkpoint to {where}, earlier ones are intact: {reason}")


def lacks_space(run: Path, tensors: dict[str, Tensor]) -> str:
    """Why a checkpoint of these tensors does not fit on the disk; "" if it does."""
    needed = sum(t.numel() * t.element_size() for t in tensors.values())
    free = shutil.disk_usage(run).free
    if free >= needed * 1.02:
        return ""
    return (
        f"a checkpoint takes {needed / 1e6:,.1f} MB, {free / 1e6:,.1f} MB are free on the disk of {run}; "
        "earlier checkpoints are intact"
    )


def tensor_file(tensors: dict[str, Tensor]) -> Writer:
    """A writer of a safetensors file."""
    return lambda path: save_file({k: v.detach().cpu().contiguous() for k, v in tensors.items()}, path)


def text_file(text: str) -> Writer:
    """A writer of a text file."""
    return lambda path: path.write_text(text, encoding="utf-8")  # type: ignore[return-value]


def json_file(data: Any) -> Writer:
    """A writer of a JSON file."""
    return text_file(json_text(data, 1) + "\n")
