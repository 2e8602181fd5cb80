"""The memory that the weights in files take, found without reading them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sedd_cli.checkpoints.formats.inert import read_inert
from sedd_cli.checkpoints.tensors import tensor_shapes
from sedd_cli.errors import DamageError, RequestError

#: Bytes of a number where weights are copied.
FULL = torch.float32.itemsize


def memory_needed(files: Iterable[Path], copied: bool, kind: str = "") -> int:
    """Bytes of the weights in files: copied in float32, or as they are stored.

    kind: what the names of the copied ones begin with, where files of safetensors hold others.
    """
    return sum(_copied(file, kind) if copied else file.stat().st_size for file in files if file.is_file())


def _copied(file: Path, kind: str) -> int:
    """Bytes of a file's weights in float32; those of the file where it cannot be read, which loading it reports."""
    if file.suffix == ".safetensors":
        if shapes := tensor_shapes(file):
            return FULL * sum(math.prod(shape) for name, shape in shapes.items() if name.startswith(kind))
        numbers = 0
    else:
        # no more than is stored: what a tensor declares beyond that is refused as damage
        numbers = sum(min(v.numel(), v.untyped_storage().nbytes() // v.itemsize) for v in _mapped(file))
    return FULL * numbers or file.stat().st_size


def _mapped(file: Path) -> list[Tensor]:
    """The tensors of a pickle that are the model's, mapped: the averages of a checkpoint, else its weights."""
    try:
        content = read_inert(file)
    except (RequestError, DamageError):
        return []
    return _weights(content) if isinstance(content, Mapping) else []


def _weights(content: Mapping[str, Any]) -> list[Tensor]:
    ema = content.get("ema")
    found = ema.get("shadow_params") if isinstance(ema, Mapping) else None
    if not found:
        found = next(
            (content[key] for key in ("state_dict", "model") if isinstance(content.get(key), Mapping)), content
        )
    values = found.values() if isinstance(found, Mapping) else found if isinstance(found, list) else ()
    return [value for value in values if isinstance(value, Tensor)]
