"""The format of checkpoints, and reading them. A checkpoint folder is complete and verified, or does not exist.

    step-1000/  shard-*.safetensors (weights, EMA, optimizers; one file per process that holds a shard)
                state.json recipe.yaml tokenizer.json manifest.json (the sha256 of every other file)

torch.distributed.checkpoint reads and writes the tensors, so the number of processes may change in between. Nothing
in a checkpoint is ever unpickled. `checkpoints.draft` writes them.
"""

from __future__ import annotations

import re
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sedd_cli.checkpoints.tensors import read_tensors
from sedd_cli.errors import MESSAGE, DamageError, RequestError, displayed
from sedd_cli.system.digests import sha256_of
from sedd_cli.system.documents import is_plain_name, read_json
from sedd_cli.system.files import require_utf8

MANIFEST, LATEST = "manifest.json", "latest"
NAME = r"step-\d+"
#: Version of the format; increased when older versions of sedd would misread a folder.
LAYOUT = 1


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
                reason = " ".join(str(first_cause(error)).split())[:300]
                raise DamageError(f"checkpoint {self.folder} does not fit this model: {reason}") from None

    def json(self, name: str) -> Any:
        """The content of NAME.json."""
        return read_json(self.folder / f"{name}.json")


def first_cause(error: Any) -> Exception:
    """The first of the errors that a CheckpointException collects from the processes."""
    return next((found for found, _ in error.failures.values() if isinstance(found, Exception)), RuntimeError(error))


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
