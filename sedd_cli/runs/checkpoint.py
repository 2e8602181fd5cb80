"""Checkpoints: a folder that is either complete and verified, or not there at all.

    step-1000/  weights.safetensors ema.safetensors optimizer.safetensors state.json
                recipe.yaml tokenizer.json manifest.json (the sha256 of every other file)

Written beside, fsynced, renamed. Nothing in it is ever unpickled.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from sedd_cli.errors import DamageError, RequestError, WorkError
from sedd_cli.text.atomic import write_whole

MANIFEST, LATEST = "manifest.json", "latest"
NAME = r"step-\d+"


@dataclass(frozen=True)
class Checkpoint:
    """A complete checkpoint folder whose files match their manifest."""

    folder: Path

    @property
    def step(self) -> int:
        return int(self.folder.name.removeprefix("step-"))

    def tensors(self, name: str) -> dict[str, Tensor]:
        """The tensors of `name`.safetensors, on the CPU."""
        return read_tensors(self.folder / f"{name}.safetensors")

    def json(self, name: str) -> Any:
        return json.loads((self.folder / f"{name}.json").read_text(encoding="utf-8"))


def read_tensors(path: Path) -> dict[str, Tensor]:
    """A safetensors file, or a DamageError that names it."""
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise DamageError(f"{path} cannot be read: {error}") from None


def write_checkpoint(run: Path, step: int, files: dict[str, Callable[[Path], None]], keep: int) -> Path:
    """Write checkpoints/step-N with the files the callables make, point `latest` at it, drop all but `keep`.

    Until the rename, the previous checkpoint and `latest` are untouched.
    """
    parent = run / "checkpoints"
    final, partial = parent / f"step-{step}", parent / f".step-{step}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir(parents=True)
        for name, write in files.items():
            write(partial / name)
        digests = {name: _sha256(partial / name) for name in files}
        (partial / MANIFEST).write_text(json.dumps({"step": step, "sha256": digests}, indent=1) + "\n")
        for path in [*partial.iterdir(), partial]:
            _fsync(path)
        if final.exists():
            shutil.rmtree(final)
        os.replace(partial, final)
    except PermissionError as error:
        raise RequestError(f"cannot write a checkpoint to {parent}: {error.strerror}") from None
    except (OSError, SafetensorError) as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise WorkError(f"cannot write a checkpoint to {parent}, earlier ones are intact: {error}") from None
    _fsync(parent)
    write_whole(run / LATEST, final.name + "\n")
    # what lies ahead of this step belongs to a course that was given up
    known = sorted(_complete(parent), key=lambda c: c.step)
    behind = [c for c in known if c.step <= step]
    for old in [*behind[:-keep], *known[len(behind) :]]:
        shutil.rmtree(old.folder)
    return final


def tensor_file(tensors: dict[str, Tensor]) -> Callable[[Path], None]:
    """A writer of a safetensors file for `write_checkpoint`."""
    return lambda path: save_file({k: v.detach().cpu().contiguous() for k, v in tensors.items()}, path)


def text_file(text: str) -> Callable[[Path], None]:
    """A writer of a text file for `write_checkpoint`."""
    return lambda path: path.write_text(text, encoding="utf-8")  # type: ignore[return-value]


def json_file(data: Any) -> Callable[[Path], None]:
    """A writer of a JSON file for `write_checkpoint`."""
    return text_file(json.dumps(data, indent=1) + "\n")


def latest(run: Path) -> Checkpoint | None:
    """The newest complete checkpoint of a run, verified; None where there is none yet."""
    if not (run / LATEST).is_file():
        return None
    name = (run / LATEST).read_text(encoding="utf-8", errors="replace").strip()
    if not re.fullmatch(NAME, name) or not (run / "checkpoints" / name).is_dir():
        there = ", ".join(c.folder.name for c in sorted(_complete(run / "checkpoints"), key=lambda c: c.step))
        raise DamageError(
            f"{run / LATEST} names {name!r}, which is no checkpoint of this run: "
            f"write the name of a complete one into it ({there or 'there is none'})"
        )
    return open_checkpoint(run / "checkpoints" / name)


def open_checkpoint(folder: Path) -> Checkpoint:
    """Verify every file against the manifest. DamageError names the first that is missing or altered."""
    try:
        digests = dict(json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["sha256"])
    except (OSError, ValueError, KeyError, TypeError):
        raise DamageError(f"{folder} is not a complete checkpoint: its {MANIFEST} is missing or damaged") from None
    for name, digest in digests.items():
        if not (folder / name).is_file():
            raise DamageError(f"checkpoint {folder} is damaged: {name} is missing")
        if _sha256(folder / name) != digest:
            raise DamageError(f"checkpoint {folder} is damaged: {name} does not match its sha256 (truncated or edited)")
    return Checkpoint(folder)


def optimizer_files(optimizer: torch.optim.Optimizer) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """An optimizer's state as tensors "index.key" and plain data, so that no pickle is needed."""
    state = optimizer.state_dict()
    tensors = {f"{i}.{key}": torch.as_tensor(v) for i, entry in state["state"].items() for key, v in entry.items()}
    return tensors, {"param_groups": state["param_groups"]}


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor], plain: dict[str, Any]) -> None:
    """The inverse of `optimizer_files`."""
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        index, key = name.split(".", 1)
        state.setdefault(int(index), {})[key] = value
    optimizer.load_state_dict({"state": state, "param_groups": plain["param_groups"]})


def _complete(parent: Path) -> list[Checkpoint]:
    return [Checkpoint(p) for p in parent.glob("step-*") if re.fullmatch(NAME, p.name) and (p / MANIFEST).is_file()]


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        digest = hashlib.sha256()
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def _fsync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
