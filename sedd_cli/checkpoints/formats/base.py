"""What a format is: how it is recognised, and how its files become a model."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import IntEnum
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from sedd_cli.checkpoints.formats.weights_memory import memory_needed
from sedd_cli.checkpoints.loaded_model import LoadedModel
from sedd_cli.checkpoints.tensors import INDEX, read_sharded, read_tensors, shards_of
from sedd_cli.core.graphs import Graph
from sedd_cli.core.graphs.absorbing import Absorbing
from sedd_cli.core.graphs.uniform import Uniform
from sedd_cli.core.losses import Objective
from sedd_cli.core.schedules import Schedule
from sedd_cli.core.vocabulary import Vocabulary
from sedd_cli.errors import RequestError, displayed, listed
from sedd_cli.models.network import Adapted, Condition, LanguageNetwork, NoiseInput
from sedd_cli.system.documents import read_json
from sedd_cli.system.memory import free_memory

CONFIG = "config.json"
WEIGHTS = ("model.safetensors", "pytorch_model.bin")
#: Memory that a model takes, as a multiple of its weights.
MEMORY_SHARE = 1.1
#: What LLaDA, Dream, a2d and SMDM are, which no recipe trains.
LLAMA = "is a Llama-like network"
#: Prefixes that wrappers of networks put before the names of tensors.
WRAPPERS = ("module.", "_orig_mod.")


@dataclass(frozen=True)
class ModelFiles:
    """The folder or file that a user named, with its configuration and tensors, read once and when asked for."""

    path: Path
    name: str

    @property
    def folder(self) -> Path:
        return self.path if self.path.is_dir() else self.path.parent

    @cached_property
    def config(self) -> Mapping[str, Any]:
        """config.json; empty where there is none, or where it holds no keys and values."""
        file = self.folder / CONFIG
        found = read_json(file) if self.path.is_dir() and file.is_file() else {}
        return found if isinstance(found, Mapping) else {}

    @property
    def model_type(self) -> str:
        """The entry `model_type` of config.json in lower case, or "": copies of one project's code differ in it."""
        return str(self.config.get("model_type") or "").lower()

    def number(self, *keys: str, default: int | None = None) -> int:
        """A positive whole number of config.json under the first of `keys` that is there."""
        for key in keys:
            if (value := self.config.get(key)) is not None:
                if type(value) is not int or value < 1:
                    raise RequestError(f"{self.folder / CONFIG}: {key} must be a positive number, found "
                                       f"{displayed(value)}")  # fmt: skip
                return value
        if default is None:
            raise RequestError(f"{self.folder / CONFIG}: {' or '.join(keys)} is missing")
        return default

    def flag(self, key: str, default: bool = False) -> bool:
        """A truth value of config.json; RequestError for anything else."""
        if (value := self.config.get(key)) is None:
            return default
        if not isinstance(value, bool):
            raise RequestError(f"{self.folder / CONFIG}: {key} must be true or false, found {displayed(value)}")
        return value

    @property
    def _known(self) -> list[Path]:
        """Where weights may be, best first."""
        return [self.folder / (name + ending) for ending in ("", INDEX) for name in WEIGHTS]

    def which_weights(self, taken: list[Path]) -> dict[str, str]:
        """The fact which file the weights are taken from, where the folder has others that could be meant."""
        whole = self.weights if taken == self.weight_files else taken[0]
        others = [*self._known, *sorted(self.folder.glob("*.ckpt"))] if self.path.is_dir() else []
        names = [file.name for file in others if file.is_file() and file != whole]
        return {"weights in": f"{whole.name}, not {listed(names)}"} if whole and names else {}

    @property
    def weights(self) -> Path | None:
        """The file of the weights, or the index of their shards."""
        return next((file for file in self._known if file.is_file()), None)

    @cached_property
    def tensors(self) -> dict[str, Tensor]:
        """All tensors by name, mapped from the files where possible, without the prefixes of wrappers."""
        if (file := self.weights) is None:
            raise RequestError(f"{self.folder} has {CONFIG} but neither {' nor '.join(WEIGHTS)}, whole or in shards")
        found = (read_sharded if file.name.endswith(INDEX) else read_tensors)(file)
        return {unwrapped(name): value for name, value in found.items()}

    @property
    def weight_files(self) -> list[Path]:
        """The file named or that of the weights, or their shards; empty where there is none."""
        file = self.path if self.path.is_file() else self.weights
        if file is None or not file.name.endswith(INDEX):
            return [file] if file else []
        return sorted({file.parent / name for name in shards_of(file).values()})

    def check_memory(self, device: torch.device, files: Iterable[Path], copied: bool, kind: str = "") -> None:
        """RequestError where the weights in files do not fit into the free memory of a device, with the numbers.

        copied: whether they are copied in float32, not mapped as they are stored. kind: the beginning of their names.
        """
        needed = MEMORY_SHARE * memory_needed(files, copied, kind)
        if needed > (free := free_memory(device)):
            raise RequestError(
                f"{self.name} takes {needed / 1e9:.2f} GB of memory, {free / 1e9:.2f} GB are free on {device}: free "
                "some, or take another device"
            )


def unwrapped(name: str) -> str:
    """A tensor's name without the prefixes of wrappers."""
    for prefix in WRAPPERS:
        name = name.replace(prefix, "")
    return name


class Mark(IntEnum):
    """What a format is recognised by, the least specific first."""

    FILE = 1  # one file of an ending, or with tensors of certain names
    DIRECTORY = 2  # files of certain names in a training directory
    KEYS = 3  # keys of config.json
    TYPE = 4  # the model_type that config.json names


class Format(ABC):
    """One layout of checkpoints."""

    name: ClassVar[str]
    #: What marks it, for the message that lists what was looked for.
    marks: ClassVar[str]
    #: How specific that is, by which one of several formats that fit is chosen.
    marked_by: ClassVar[Mark] = Mark.TYPE
    #: Why no recipe can train its networks, in words; "" where one can, as far as the format shows.
    untrained: ClassVar[str] = ""

    def recognises(self, source: ModelFiles) -> bool:
        """Whether the files look like this format: by names and configuration, without reading tensors.

        By default, whether config.json has the format's name as its model_type.
        """
        return source.model_type == self.name

    def files(self, source: ModelFiles) -> list[Path]:
        """The files whose weights `load` reads, those that are there."""
        return source.weight_files

    def copies(self, source: ModelFiles) -> bool:
        """Whether `load` copies the weights, in float32; otherwise they stay as they are stored."""
        return self.untrained != LLAMA

    @abstractmethod
    def load(self, source: ModelFiles, mask: str | None = None) -> LoadedModel:
        """The model. mask: the id or the token of MASK, where the user names it.

        Raises:
            RequestError: it lacks something, or is a variant that is not supported.
            DamageError: its files are damaged.
        """


FORMATS: dict[str, Format] = {}


def register(kind: type[Format]) -> type[Format]:
    """Class decorator: enter a format."""
    FORMATS[kind.name] = kind()
    return kind


def find_format(source: ModelFiles) -> tuple[Format | None, str]:
    """The format of a source, None if none fits; and, if several do, in words which one is taken.

    The one with the most specific mark is taken. RequestError if several have marks that are equally specific.
    """
    found = sorted((known for known in FORMATS.values() if known.recognises(source)), key=lambda one: -one.marked_by)
    if not found:
        return None, ""
    first, *others = found
    if others and others[0].marked_by == first.marked_by:
        equal = "; ".join(f"{one.name} ({one.marks})" for one in found if one.marked_by == first.marked_by)
        raise RequestError(
            f"{source.name} fits several formats equally well: {equal}: leave the files of one in the folder"
        )
    names = " and ".join(one.name for one in others)
    return first, f"{first.name}, by its {first.marks}, not for {names}" if others else ""


def step_of(value: Any) -> dict[str, int]:
    """The fact of the step that a checkpoint names; nothing where that is no whole number."""
    return {"step": value} if type(value) is int else {}


def assembled(
    source: ModelFiles,
    kind: str,
    net: LanguageNetwork,
    vocabulary: Vocabulary,
    schedule: Schedule,
    objective: Objective,
    condition: Condition,
    facts: dict[str, Any] | None = None,
) -> LoadedModel:
    """A model of a network of others. Without MASK its graph is the uniform one."""  # fmt: skip
    tokens = vocabulary.tokens
    graph: Graph = Uniform(tokens) if vocabulary.mask is None else Absorbing(tokens, scale_by_sigma=False)
    adapted = Adapted(net, vocabulary, NoiseInput(condition, schedule))
    facts = {"layout": kind, "weights": "as published", **(facts or {})}
    return LoadedModel(
        adapted, graph, schedule, None, source.name, facts=facts, vocabulary=vocabulary, parametrized=objective
    )
