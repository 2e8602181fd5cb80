"""Files of tensors: read without running anything, and fitted to a network strictly."""

from __future__ import annotations

import pickle
import re
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from sedd_cli.errors import DamageError, RequestError, first_line
from sedd_cli.models.dit import DiT

#: How a file begins that Git LFS has not fetched.
LFS = b"version https://git-lfs"
#: What an unpickler that runs nothing says when it is asked to.
_ASKED = re.compile(r"GLOBAL (\S+) (?:was not|whose module)")


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Tensors by their names from a safetensors file, or from a pickled state dict, of which no code is run.

    They may be mapped: the file's content is theirs until they are copied. DamageError names a file that cannot be
    read, RequestError a pickle that holds more than tensors.
    """
    with path.open("rb") as file:
        if file.read(len(LFS)) == LFS:
            raise DamageError(f"{path} is a pointer of Git LFS, not the file itself: fetch it with `git lfs pull`")
    if path.suffix != ".safetensors":
        found = read_pickle(path)
        if not isinstance(found, Mapping) or not all(_named(k, v) for k, v in found.items()):
            raise DamageError(f"{path} holds no tensors by their names")
        return dict(found)
    try:
        return load_file(path)
    except Exception as error:  # the library's own, and what a damaged header leads to
        raise DamageError(f"{path} cannot be read: {first_line(error)}") from None


def read_pickle(path: Path) -> Any:
    """What `torch.save` wrote: tensors (mapped, not read, where the file allows it), containers and numbers.

    RequestError for a pickle that asks for anything else: what it names would be run. DamageError for a damaged one.
    """
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Detected pickle protocol")
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError as error:
        asked = _ASKED.search(str(error))
        if asked or "Unsupported" in str(error):
            what = asked[1] if asked else "more than tensors and containers"
            raise RequestError(
                f"{path} is refused: as a pickle it asks for {what}, which could run code that is not torch's own; "
                "where you trust it, save its tensors as safetensors and load that"
            ) from None
        raise DamageError(f"{path} is no whole pickle of torch: {first_line(error)}") from None
    except Exception as error:  # what is left of a file that was cut, or that something else wrote, fails in many ways
        raise DamageError(f"{path} is no whole pickle of torch: {first_line(error)}") from None


def load_weights(net: DiT, tensors: Mapping[str, Tensor], source: str, copy: bool = False) -> None:
    """Make tensors the network's parameters, float32; DamageError lists all that are missing, unexpected or wrong.

    Buffers may be left out, and must agree where they are not. copy: share no memory with the tensors.
    """
    wanted, buffers = dict(net.named_parameters()), dict(net.named_buffers())
    wrong = [f"missing {name}" for name in wanted if name not in tensors]
    wrong += [f"unexpected {name}" for name in tensors if name not in wanted and name not in buffers]
    for name, value in tensors.items():
        if (like := wanted.get(name, buffers.get(name))) is not None and (reason := _misfit(value, like)):
            wrong.append(f"{name} {reason}")
        elif name in buffers and not torch.allclose(value.float(), buffers[name], rtol=1e-2, atol=1e-6):
            wrong.append(f"{name} holds other numbers than this network's")  # but for rounding to bf16
    if wrong:
        raise DamageError(f"the weights in {source} do not fit the network: {'; '.join(wrong)}")
    given = {name: tensors[name].to(torch.float32, copy=copy) for name in wanted}
    net.load_state_dict(given, strict=False, assign=True)


def check_finite(net: nn.Module, source: str) -> None:
    """DamageError naming the parameters that hold NaN or an infinity."""
    if wrong := not_finite(net):
        raise DamageError(f"the weights of {source} are not finite: {wrong}")


def not_finite(net: nn.Module) -> str:
    """The parameters that hold NaN or an infinity, the first few by name; "" where there are none."""
    wrong = [name for name, p in net.named_parameters() if not p.isfinite().all()]
    more = f" and {len(wrong) - 3} others" if len(wrong) > 4 else ""
    return ", ".join(wrong[:3] if more else wrong) + more


def _misfit(value: Tensor, like: Tensor) -> str:
    """What keeps a tensor from standing in the place of another; "" if nothing does."""
    if value.shape != like.shape:
        return f"is {list(value.shape)}, expected {list(like.shape)}"
    if not value.is_floating_point():
        return f"is {str(value.dtype).removeprefix('torch.')}, expected floating point"
    if value.layout != torch.strided or value.is_meta:
        return "holds no plain values"
    return ""


def _named(key: Any, value: Any) -> bool:
    return isinstance(key, str) and isinstance(value, Tensor)
