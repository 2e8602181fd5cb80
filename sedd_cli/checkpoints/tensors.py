"""Read files of tensors without running code, and load them into a network strictly."""

from __future__ import annotations

import pickle
import re
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from sedd_cli.errors import DamageError, RequestError, displayed, first_line, listed, shortened
from sedd_cli.system.documents import is_plain_name, read_json
from sedd_cli.system.files import require_utf8

#: What follows the name of weights in that of the index of their shards.
INDEX = ".index.json"
#: Most files of one model.
MOST_SHARDS = 4096
#: Most bytes of the header of a safetensors file, of about 80,000 tensors; the library reads millions for minutes.
SAFETENSORS_HEADER_BYTES = 8 << 20
#: Most bytes of an archive of torch beside its tensors: a large tokenizer has some twenty million.
PICKLE_BYTES = 64 << 20
#: The beginning of a pointer file of Git LFS.
LFS = b"version https://git-lfs"
#: The message of an unpickler that refuses to import a name.
_ASKED = re.compile(r"GLOBAL (\S+) (?:was not|whose module)")


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Tensors by name from a safetensors file or a pickled state dict. They may be memory-mapped.

    Raises:
        DamageError: The file cannot be read.
        RequestError: A pickle holds more than tensors; its code is not run.
    """
    require_utf8(path, "the weights")
    with path.open("rb") as file:
        if file.read(len(LFS)) == LFS:
            raise DamageError(f"{path} is a pointer of Git LFS, not the file itself: fetch it with `git lfs pull`")
    if path.suffix != ".safetensors":
        found = read_pickle(path)
        if not isinstance(found, Mapping) or not all(_is_named_tensor(k, v) for k, v in found.items()):
            raise DamageError(f"{path} does not hold tensors by name")
        check_stored(found, path)
        return dict(found)
    if (header := _header_bytes(path)) > SAFETENSORS_HEADER_BYTES:
        raise DamageError(
            f"{path} cannot be read: its header declares {header:,} bytes, at most "
            f"{SAFETENSORS_HEADER_BYTES:,} are read (the limit SAFETENSORS_HEADER_BYTES)"
        )
    try:
        return load_file(path)
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # errors of the library, its panics, and whatever a damaged header causes
        raise DamageError(f"{path} cannot be read: {first_line(error)}") from None


def shards_of(index: Path) -> dict[str, str]:
    """The shard of every tensor, by the index of a model whose weights are stored in several files.

    Raises:
        DamageError: it is no index.
        RequestError: it names other files than those of its own folder.
    """
    found = read_json(index)
    shards = found.get("weight_map") if isinstance(found, Mapping) else None
    if not isinstance(shards, Mapping) or not shards:
        raise DamageError(f"{index} is no index of shards: it has no weight_map")
    if wrong := [file for file in shards.values() if not is_plain_name(file)]:
        raise RequestError(f"{index} names {displayed(wrong[0])}, which is no file of its own folder")
    if (count := len(set(shards.values()))) > MOST_SHARDS:
        raise RequestError(f"{index} names {count:,} files, at most {MOST_SHARDS:,} are read (the limit MOST_SHARDS)")
    return dict(shards)


def read_sharded(index: Path) -> dict[str, Tensor]:
    """The tensors that an index names, mapped from its shards.

    Raises:
        DamageError: a tensor or a shard is missing or damaged.
    """
    shards = shards_of(index)
    files = sorted(set(shards.values()))
    if missing := [name for name in files if not (index.parent / name).is_file()]:
        raise DamageError(f"{index.parent} lacks {listed(missing)} of the {len(files)} shards that {index.name} names")
    found: dict[str, Tensor] = {}
    for file in files:
        stored, wanted = read_tensors(index.parent / file), [name for name, at in shards.items() if at == file]
        if absent := [name for name in wanted if name not in stored]:
            raise DamageError(f"{index} names tensors that {file} does not hold: {listed(absent)}")
        found |= {name: stored[name] for name in wanted}
    return found


def _header_bytes(path: Path) -> int:
    """How long the header of a safetensors file is, as its first eight bytes declare."""
    with path.open("rb") as file:
        return int.from_bytes(file.read(8), "little")


def tensor_shapes(path: Path) -> dict[str, list[int]]:
    """The shapes of the tensors of a safetensors file, from its header; none where it cannot be read."""
    try:
        if _header_bytes(path) > SAFETENSORS_HEADER_BYTES:
            return {}
        with safe_open(path, "pt") as file:
            return {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118  (it is no mapping)
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException:  # errors of the library, its panics; reading the tensors reports them
        return {}


def check_archive(path: Path) -> None:
    """Refuse an archive that torch would read otherwise than it is seen to be, or whose pickle is too large.

    torch finds the directory of an archive by another rule than `zipfile`: a crafted file can show each its own.

    Raises:
        RequestError: It is a program of TorchScript, which torch would load and run, or holds too much.
        DamageError: It is damaged, or has two directories.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
        records = torch._C.PyTorchFileReader(str(path)).get_all_records()
    except (OSError, zipfile.BadZipFile, RuntimeError) as error:
        raise DamageError(f"{path} is not a complete checkpoint of torch: {first_line(error)}") from None
    names = [entry.filename.partition("/")[2] for entry in entries]
    if "constants.pkl" in {*names, *records}:
        raise RequestError(f"{path} is refused: it is a TorchScript program, not a checkpoint")
    if sorted(names) != sorted(records):
        raise DamageError(f"{path} is refused: its directory lists other records than torch finds")
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
        raise RequestError(f"{path} is refused: its records are compressed, which torch.save does not do")
    size = sum(entry.file_size for entry, name in zip(entries, names, strict=True) if not name.startswith("data/"))
    if size > PICKLE_BYTES:
        raise RequestError(
            f"{path} is refused: beside its tensors it holds {size:,} bytes, at most {PICKLE_BYTES:,} are read "
            "(the limit PICKLE_BYTES)"
        )


def read_pickle(path: Path) -> Any:
    """Read what `torch.save` wrote: tensors (memory-mapped if possible), containers and numbers.

    Raises:
        RequestError: The pickle needs anything else, which could run code.
        DamageError: The file is damaged.
    """
    zipped = zipfile.is_zipfile(path)
    if zipped:
        check_archive(path)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Detected pickle protocol")
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except pickle.UnpicklingError as error:
        asked = _ASKED.search(str(error))
        if asked or "Unsupported" in str(error):
            what = asked[1] if asked else "more than tensors and containers"
            raise RequestError(
                f"{path} is refused: this pickle needs {what}, which could run code of others; "
                "if you trust it, save its tensors as safetensors and load that file"
            ) from None
        raise DamageError(f"{path} is not a complete pickle of torch: {first_line(error)}") from None
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # damaged and foreign files fail in many ways
        raise DamageError(f"{path} is not a complete pickle of torch: {first_line(error)}") from None


def check_stored(found: Mapping[str, Tensor], path: Path) -> None:
    """DamageError for tensors that declare more numbers than the file stores, each or together.

    One of strides 0 does, and so do many that share one storage. Tied weights, which two tensors share, do not.
    """
    declared, storages = 0, {}
    for name, value in found.items():
        if value.layout == torch.strided and not value.is_meta:
            stored = value.untyped_storage().nbytes()
            declared += value.numel() * value.element_size()
            storages[value.untyped_storage().data_ptr()] = stored
            if value.numel() * value.element_size() > stored:
                raise DamageError(
                    f"{path} is refused: {shortened(name)} declares {value.numel():,} numbers and stores "
                    f"{stored:,} bytes"
                )
    if declared > 2 * (together := sum(storages.values())):
        raise DamageError(f"{path} is refused: its tensors declare {declared:,} bytes and store {together:,}")


def load_weights(
    net: nn.Module,
    tensors: Mapping[str, Tensor],
    source: str,
    copy: bool = False,
    dtype: torch.dtype | None = torch.float32,
) -> None:
    """Load tensors as the network's parameters. Buffers may be missing, but must agree if present.

    Args:
        net: A network whose parameters are replaced.
        tensors: Weights by name.
        source: Where they are from, for messages.
        copy: Share no memory with the tensors.
        dtype: The precision of the parameters; None: the stored one.

    Raises:
        DamageError: Lists all tensors that are missing, unexpected or wrong.
    """
    wanted, buffers = dict(net.named_parameters()), dict(net.named_buffers())
    wrong = [f"missing {name}" for name in wanted if name not in tensors]
    wrong += [f"unexpected {name}" for name in tensors if name not in wanted and name not in buffers]
    for name, value in tensors.items():
        if (like := wanted.get(name, buffers.get(name))) is not None and (reason := _misfit(value, like)):
            wrong.append(f"{name} {reason}")
        elif name in buffers and not torch.allclose(value.float(), buffers[name], rtol=1e-2, atol=1e-6):
            wrong.append(f"{name} differs from this network's")  # tolerating bf16
    if wrong:
        raise DamageError(f"the weights in {source} do not fit the network: {listed(wrong, separator='; ')}")
    given = {name: tensors[name].to(dtype or tensors[name].dtype, copy=copy) for name in wanted}
    net.load_state_dict(given, strict=False, assign=True)


def check_finite(net: nn.Module, source: str) -> None:
    """Raise DamageError naming the parameters that hold NaN or infinities."""
    if wrong := not_finite(net):
        raise DamageError(f"the weights of {source} are not finite: {wrong}")


def not_finite(net: nn.Module) -> str:
    """The first few parameters that hold NaN or infinities, in words; "" if there are none."""
    wrong = [name for name, p in net.named_parameters() if not p.isfinite().all()]
    more = f" and {len(wrong) - 3} others" if len(wrong) > 4 else ""
    return ", ".join(wrong[:3] if more else wrong) + more


def _misfit(value: Tensor, like: Tensor) -> str:
    """Why a tensor cannot replace another; "" if it can."""
    if value.shape != like.shape:
        return f"is {list(value.shape)}, expected {list(like.shape)}"
    if not value.is_floating_point():
        return f"is {str(value.dtype).removeprefix('torch.')}, expected floating point"
    if value.layout != torch.strided or value.is_meta:
        return "is not a dense tensor"
    return ""


def _is_named_tensor(key: Any, value: Any) -> bool:
    return isinstance(key, str) and isinstance(value, Tensor)
