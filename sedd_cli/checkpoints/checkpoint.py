"""The format of checkpoints. A checkpoint folder is complete and verified, or does not exist.

    step-1000/  shard-*.safetensors (weights, EMA, optimizers; one file per process that holds a shard)
                state.json recipe.yaml tokenizer.json manifest.json (the sha256 of every other file)

torch.distributed.checkpoint reads and writes the tensors, so the number of processes may change in between. A
checkpoint is written to a temporary folder, synced and renamed. Nothing in it is ever unpickled.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.distributed import ProcessGroup

from sedd_cli.checkpoints.tensors import read_tensors
from sedd_cli.errors import MESSAGE, DamageError, RequestError, WorkError, displayed
from sedd_cli.system.digests import sha256_of
from sedd_cli.system.documents import is_plain_name, read_json
from sedd_cli.system.files import require_utf8, sync_path, write_whole
from sedd_cli.system.json_lines import json_text

MANIFEST, LATEST = "manifest.json", "latest"
NAME = r"step-\d+"
#: Version of the format; increased when older versions of sedd would misread a folder.
LAYOUT = 1

Writer = Callable[[Path], None]


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint folder with a manifest. `open_checkpoint` also verifies its files, `_complete` does not."""

    folder: Path
    #: The step that its manifest names, which need not be that of a renamed or linked folder.
    step: int

    def tensors(self, kind: str) -> dict[str, Tensor]:
        """All tensors of one kind (weights, ema, adamw …) by name, on the CPU."""
        files = list(self.folder.glob("*.safetensors"))
        if len(files) == 1:  # every tensor is whole; what reads shards takes a second to import
            stored = read_tensors(files[0])
            # copied: where a mapped tensor lies in its file would decide how sums over it are rounded
            found = {name: value.clone() for name, value in stored.items() if name.startswith(f"{kind}.")}
        else:
            found = self._joined(kind)
        return {name.removeprefix(f"{kind}."): value for name, value in found.items()}

    def _joined(self, kind: str) -> dict[str, Tensor]:
        """The tensors of one kind by their full names, each from its shards."""
        from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader
        from torch.distributed.checkpoint.metadata import TensorStorageMetadata

        stored = HuggingFaceStorageReader(str(self.folder)).read_metadata().state_dict_metadata
        found = {
            name: torch.empty(info.size, dtype=info.properties.dtype)
            for name, info in stored.items()
            if name.startswith(f"{kind}.") and isinstance(info, TensorStorageMetadata)
        }
        self.load(found)
        return found

    def load(self, into: dict[str, Tensor]) -> None:
        """Fill tensors, whole or sharded, by their full names ("ema.blocks.0…"); each process reads its shards."""
        from torch.distributed.checkpoint.api import CheckpointException
        from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader
        from torch.distributed.checkpoint.state_dict_loader import load

        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "torch.distributed is disabled")
            try:
                load(into, storage_reader=HuggingFaceStorageReader(str(self.folder)), no_dist=True)
            except CheckpointException as error:
                reason = " ".join(str(_cause(error)).split())[:300]
                raise DamageError(f"checkpoint {self.folder} does not fit this model: {reason}") from None

    def json(self, name: str) -> Any:
        """The content of NAME.json."""
        return read_json(self.folder / f"{name}.json")


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
            raise _cause(error) from None


def _cause(error: Any) -> Exception:
    """The first of the errors that a CheckpointException collects from the processes."""
    return next((found for found, _ in error.failures.values() if isinstance(found, Exception)), RuntimeError(error))


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


def latest_named(run: Path) -> str | None:
    """The text of `latest`, whatever it is; None where there is no such file."""
    if not (run / LATEST).is_file():
        return None
    with (run / LATEST).open(encoding="utf-8", errors="replace") as file:
        return file.read(2 * MESSAGE).strip()


def latest_name(run: Path) -> str | None:
    """The name of the checkpoint that `latest` names; None where it names none, or is damaged."""
    name = latest_named(run)
    return name if name and re.fullmatch(NAME, name) else None


def latest(run: Path) -> Checkpoint | None:
    """The checkpoint that `latest` names, verified; None if there is none yet."""
    name = latest_named(run)
    if name is None:
        return None
    try:
        return _named(run, name)
    except (DamageError, OSError):
        if latest_named(run) == name:
            raise
        return latest(run)  # a training has written another one meanwhile, and removed this one


def _named(run: Path, name: str) -> Checkpoint:
    """The checkpoint of this name, verified."""
    if not re.fullmatch(NAME, name) or not (run / "checkpoints" / name).is_dir():
        there = ", ".join(c.folder.name for c in sorted(_complete(run / "checkpoints"), key=lambda c: c.step))
        raise DamageError(
            f"{run / LATEST} names {displayed(name)}, which is not a checkpoint of this run: "
            f"write the name of a complete one into it ({there or 'there is none'})"
        )
    try:
        return open_checkpoint(run / "checkpoints" / name)
    except DamageError as error:
        others = ", ".join(c.folder.name for c in _complete(run / "checkpoints") if c.folder.name != name)
        hint = f"; to go back, write the name of another into {run / LATEST} ({others})" if others else ""
        raise DamageError(f"{error}{hint}") from None


def open_checkpoint(folder: Path) -> Checkpoint:
    """Verify all files against the manifest; DamageError names the first one that is missing or altered."""
    require_utf8(folder, "the checkpoint")
    try:
        manifest = read_json(folder / MANIFEST)
        digests, layout, step = dict(manifest["sha256"]), manifest.get("layout"), manifest["step"]
        if type(step) is not int or not 0 <= step < 2**63:
            raise ValueError
    except (OSError, ValueError, KeyError, TypeError, AttributeError, DamageError):
        raise DamageError(f"{folder} is not a complete checkpoint: its {MANIFEST} is missing or damaged") from None
    if layout != LAYOUT:
        raise RequestError(f"checkpoint {folder} has layout {displayed(layout)}, this version of sedd reads {LAYOUT}")
    for name, digest in digests.items():
        if not is_plain_name(name):
            raise DamageError(
                f"checkpoint {folder} is damaged: its {MANIFEST} names {displayed(name)}, no file of its own"
            )
        if not (folder / name).is_file():
            raise DamageError(f"checkpoint {folder} is damaged: {name} is missing")
        if sha256_of(folder / name) != digest:
            raise DamageError(f"checkpoint {folder} is damaged: {name} does not match its sha256 (truncated or edited)")
    # the reader would take the tensors of any other file for its own
    if foreign := sorted(path.name for path in folder.glob("*.safetensors") if path.name not in digests):
        raise DamageError(f"checkpoint {folder} holds {foreign[0]}, which does not belong to it: move it elsewhere")
    return Checkpoint(folder, step)


def _complete(parent: Path) -> list[Checkpoint]:
    found = (p for p in parent.glob("step-*") if re.fullmatch(NAME, p.name) and is_checkpoint(p))
    return [Checkpoint(p, int(p.name.removeprefix("step-"))) for p in found]


def completed(run: Path) -> list[Checkpoint]:
    """The complete checkpoints of a run, in order of steps. Their files are not verified."""
    return sorted(_complete(run / "checkpoints"), key=lambda c: c.step)


def is_checkpoint(folder: Path) -> bool:
    """Whether a folder has the manifest of a checkpoint of ours, of any layout. Its files are not verified."""
    try:
        manifest = read_json(folder / MANIFEST)
    except (OSError, DamageError):
        return False
    return isinstance(manifest, dict) and {"layout", "step", "sha256"} <= manifest.keys()
