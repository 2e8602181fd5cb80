"""Read a pickle that names classes of other libraries, without importing or running any of them.

Classes become `Inert` stand-ins that keep what the pickle would have given them. Tensors are rebuilt by torch's own two
functions. Everything else is refused.
"""

from __future__ import annotations

import collections
import pickle
import types
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import _utils as rebuilding

from sedd_cli.checkpoints.tensors import check_archive
from sedd_cli.errors import DamageError, RequestError, first_line, shortened

#: Libraries whose classes become stand-ins.
STOOD_IN = (
    "omegaconf", "transformers", "transformers_modules", "tokenizers", "dataloader", "typing", "lightning",
    "lightning_fabric", "pytorch_lightning", "torchmetrics", "torch.optim", "numpy", "pathlib", "datetime", "enum",
)  # fmt: skip
#: Nested values that `plain` follows, at most: levels, and all of them.
DEPTH, MOST_VALUES = 32, 100_000


class Inert:
    """What a pickle holds of an object: the arguments it would be made with, its state and its items."""

    args: tuple[Any, ...] = ()
    state: Any = None

    def __new__(cls, *args: Any) -> Inert:
        made = object.__new__(cls)
        made.args = args
        made.items = {}
        return made

    def __init__(self, *args: Any) -> None:
        pass

    items: dict[Any, Any]

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def __setitem__(self, key: Any, value: Any) -> None:
        self.items[key] = value

    def append(self, value: Any) -> None:
        self.items[len(self.items)] = value

    def extend(self, values: Any) -> None:
        for value in values:
            self.append(value)

    def get(self, key: str) -> Any:
        """An attribute of the object that it stands for; None if it has none of that name."""
        return self.state.get(key) if isinstance(self.state, Mapping) else None


def _encoded(text: str, encoding: str = "latin1") -> bytes:
    """How pickles of protocol 2 write bytes."""
    if not isinstance(text, str) or encoding != "latin1":
        raise pickle.UnpicklingError("bytes in an unusual encoding")
    return text.encode("latin1")


class _Function:
    """A function that a pickle may call and cannot change, though its BUILD instruction sets attributes."""

    __slots__ = ("_call",)

    def __init__(self, call: Callable[..., Any]):
        object.__setattr__(self, "_call", call)

    def __call__(self, *args: Any) -> Any:
        return self._call(*args)

    def __setattr__(self, name: str, value: Any) -> None:
        raise pickle.UnpicklingError(f"sets {name} of a function")


_CONTAINERS = (dict, list, tuple, set, frozenset, collections.OrderedDict, collections.defaultdict)
ALLOWED: dict[tuple[str, str], Any] = {
    **{(kind.__module__, kind.__name__): kind for kind in _CONTAINERS},
    **{("__builtin__", kind.__name__): kind for kind in (dict, list, tuple, set, frozenset)},
    ("_codecs", "encode"): _Function(_encoded),
    ("torch._utils", "_rebuild_tensor_v2"): _Function(rebuilding._rebuild_tensor_v2),
    ("torch._utils", "_rebuild_parameter"): _Function(rebuilding._rebuild_parameter),
    ("torch", "Size"): torch.Size,
    **{("torch", name): value for name, value in vars(torch).items() if isinstance(value, torch.dtype)},
}


_INSTRUCTIONS: dict[int, Any] = pickle._Unpickler.dispatch  # pyright: ignore[reportAttributeAccessIssue]


class _Unpickler(pickle._Unpickler):  # pyright: ignore[reportAttributeAccessIssue]  (there is no public name)
    """In Python: the one in C reserves memory for the largest index that a pickle stores under, up to 64 GB."""

    #: Without the instruction that reserves as many bytes as it declares; torch does not write it.
    dispatch: ClassVar = {code: load for code, load in _INSTRUCTIONS.items() if code != pickle.BYTEARRAY8[0]}

    def find_class(self, module: str, name: str) -> Any:
        if (known := ALLOWED.get((module, name))) is not None:
            return known
        if any(module == root or module.startswith(f"{root}.") for root in STOOD_IN):
            return type(name, (Inert,), {"__module__": f"inert.{module}"})
        raise _RefusedError(f"{module}.{name}")


class _RefusedError(Exception):
    """A name that is neither allowed nor of a library whose classes are stood in for."""


def _load(file: Any, **options: Any) -> Any:
    """`pickle.load` by the restricted unpickler: torch calls it for files of its oldest layout."""
    return _Unpickler(file, **options).load()


_PICKLE = types.SimpleNamespace(
    Unpickler=_Unpickler, load=_load, UnpicklingError=pickle.UnpicklingError, __name__="inert"
)


def read_inert(path: Path) -> Any:
    """Read what `torch.save` wrote, with tensors mapped from the file and `Inert` in the place of foreign objects.

    Raises:
        RequestError: The pickle names anything else than those, or it is too large.
        DamageError: The file is damaged.
    """
    check_archive(path)
    try:
        return torch.load(path, map_location="cpu", pickle_module=_PICKLE, weights_only=False, mmap=True)
    except _RefusedError as error:
        raise RequestError(
            f"{path} is refused: this pickle needs {shortened(str(error))}, which could run code of others"
        ) from None
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # damaged and foreign files fail in many ways
        raise DamageError(f"{path} is not a complete checkpoint of torch: {first_line(error)}") from None


def plain(value: Any) -> Any:
    """The keys and values of an omegaconf configuration read by `read_inert`; `${…}` stays as it is spelled."""
    return _plain(value, DEPTH, [MOST_VALUES])


def _plain(value: Any, depth: int, left: list[int]) -> Any:
    left[0] -= 1
    if depth < 0 or left[0] < 0:
        raise RequestError("the configuration in this checkpoint is nested too deeply, or too large")
    if isinstance(value, Inert) and isinstance(value.state, Mapping):
        for key in ("_content", "_val"):
            if key in value.state:
                return _plain(value.state[key], depth, left)
    if isinstance(value, Mapping):
        return {str(key): _plain(one, depth - 1, left) for key, one in value.items()}
    if isinstance(value, list):
        return [_plain(one, depth - 1, left) for one in value]
    return value if isinstance(value, str | int | float | bool | None) else None
