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
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from sedd_cli.errors import DamageError, RequestError
from sedd_cli.nets.dit import DiT

#: What an unpickler that runs nothing says when it is asked to.
_ASKED = re.compile(r"GLOBAL (\S+) (?:was not|whose module)")


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Tensors by their names from a safetensors file, or from a pickled state dict, of which no code is run.

    DamageError names a file that cannot be read, RequestError a pickle that holds more than tensors.
    """
    if path.suffix != ".safetensors":
        found = read_pickle(path)
        if not isinstance(found, Mapping) or not all(isinstance(v, Tensor) for v in found.values()):
            raise DamageError(f"{path} holds no tensors by their names")
        return dict(found)
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise DamageError(f"{path} cannot be read: {error}") from None


def read_pickle(path: Path) -> Any:
    """What `torch.save` wrote: tensors (mapped, not read, where the file allows it), containers and numbers.

    RequestError for a pickle that asks for anything else: what it names would be run. DamageError for a damaged one.
    """
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Detected pickle protocol")
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError as error:
        if asked := _ASKED.search(str(error)):
            raise RequestError(
                f"{path} is refused: as a pickle it asks for {asked[1]}, which would run code that is not torch's own; "
                "where you trust it, save its tensors as safetensors and load that"
            ) from None
        raise DamageError(f"{path} cannot be read: it is damaged, or holds something else than tensors") from None
    except (RuntimeError, OSError, EOFError, ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
        # what is left of a file that was cut, or that something else wrote, fails in many ways
        raise DamageError(f"{path} cannot be read: {_first_line(error)}") from None


def load_weights(net: DiT, tensors: Mapping[str, Tensor], source: str) -> None:
    """Make tensors the network's parameters, float32; DamageError lists every missing, unexpected or misshapen one."""
    wanted = {name: p.shape for name, p in net.named_parameters()}
    given = {name: v for name, v in tensors.items() if not name.endswith("inv_freq")}  # follows from the shape
    wrong = [f"missing {name}" for name in wanted if name not in given]
    wrong += [f"unexpected {name}" for name in given if name not in wanted]
    for name, shape in wanted.items():
        if name in given and given[name].shape != shape:
            wrong.append(f"{name} is {list(given[name].shape)}, expected {list(shape)}")
        elif name in given and not given[name].is_floating_point():
            wrong.append(f"{name} is {str(given[name].dtype).removeprefix('torch.')}, expected floating point")
    if wrong:
        raise DamageError(f"the weights in {source} do not fit the network: {'; '.join(wrong)}")
    net.load_state_dict({name: v.float() for name, v in given.items()}, strict=False, assign=True)


def _first_line(error: BaseException) -> str:
    return str(error).strip().split("\n")[0] or type(error).__name__
