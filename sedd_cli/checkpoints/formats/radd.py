"""RADD (Ou et al. 2025): SEDD's network without time and with LayerNorm biases, on a hub or in a training directory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor

from sedd_cli.checkpoints.formats.backbone import network
from sedd_cli.checkpoints.formats.base import Format, Mark, ModelFiles, assembled, register, step_of, unwrapped
from sedd_cli.checkpoints.formats.special_tokens import KNOWN_TOKENIZERS, stated_mask, tokenizer_of
from sedd_cli.checkpoints.loaded_model import LoadedModel
from sedd_cli.checkpoints.published import CHECKPOINT, HYDRA, PICKLES, averaged, checkpoint_file, training_directory
from sedd_cli.checkpoints.tensors import check_stored, read_pickle
from sedd_cli.core.losses.masked_cross_entropy import MaskedCrossEntropy
from sedd_cli.core.schedules import LogLinear
from sedd_cli.core.vocabulary import Vocabulary
from sedd_cli.errors import DamageError, RequestError, displayed
from sedd_cli.system.documents import read_yaml


class Radd(Format):
    """What its two layouts share."""

    name: ClassVar[str] = "radd"
    untrained: ClassVar[str] = "has layer normalisations with biases and is not conditioned on the noise"

    def assembled(
        self, source: ModelFiles, config: Mapping[str, Any], tensors: Mapping[str, Tensor], mask: str | None
    ) -> LoadedModel:
        """The model of a configuration with the keys of SEDD's."""
        shape = config["model"]
        for key in ("n_heads", "length"):
            if type(shape.get(key)) is not int or shape[key] < 1:
                raise RequestError(f"{source.name}: model.{key} must be a positive number, found "
                                   f"{displayed(shape.get(key))}")  # fmt: skip
        net = network(tensors, shape["n_heads"], shape["length"], source.name)
        found = stated_mask(source, {**source.config, **config}, net.states, mask, spare_row=True)
        vocabulary = Vocabulary(net.states, net.states - 1 if found is None else found)
        model = assembled(source, "radd", net, vocabulary, LogLinear(), MaskedCrossEntropy(), "none")
        model.tokenizer_source = tokenizer_of(source.folder) or KNOWN_TOKENIZERS.get(net.states)
        return model


def is_radd(config: Any) -> bool:
    """Whether a configuration is RADD's: its network has no time, and it names no graph, which is always absorbing."""
    shape = config.get("model") if isinstance(config, Mapping) else None
    if not isinstance(shape, Mapping):
        return False
    return str(shape.get("type", "")).endswith("_wot") or ("graph" not in config and "tokens" in config)


@register
class RaddHub(Radd):
    """A hub folder."""

    marks: ClassVar[str] = "config.json with a section model and no graph, as RADD's"
    marked_by: ClassVar[Mark] = Mark.KEYS

    def recognises(self, source: ModelFiles) -> bool:
        return is_radd(source.config.get("config", source.config))

    def load(self, source: ModelFiles, mask: str | None = None) -> LoadedModel:
        return self.assembled(source, source.config.get("config", source.config), source.tensors, mask)


@register
class RaddRun(Radd):
    """A training directory or one of its checkpoint files, of which the averaged weights count."""

    name: ClassVar[str] = "radd-run"
    marks: ClassVar[str] = ".hydra/config.yaml with a section model and no graph, as RADD's"
    marked_by: ClassVar[Mark] = Mark.DIRECTORY

    def recognises(self, source: ModelFiles) -> bool:
        folder = training_directory(source.path)
        named = source.path.is_dir() or source.path.suffix in PICKLES
        return folder is not None and named and is_radd(read_yaml(folder / HYDRA, DamageError))

    def files(self, source: ModelFiles) -> list[Path]:
        return [source.path if source.path.is_file() else source.path / CHECKPOINT]

    def load(self, source: ModelFiles, mask: str | None = None) -> LoadedModel:
        folder = training_directory(source.path)
        assert folder is not None, "a recognised source"
        file, source = checkpoint_file(source.path, folder), replace(source, path=folder)
        stored = read_pickle(file)
        if not isinstance(stored, Mapping):
            raise DamageError(f"{file} does not hold tensors by name")
        if isinstance(stored.get("model"), Mapping):
            stored = {**stored, "model": {unwrapped(name): value for name, value in stored["model"].items()}}
        config = read_yaml(folder / HYDRA, DamageError)
        raw, has_averages = stored.get("model"), isinstance(stored.get("ema"), Mapping)
        if has_averages or not isinstance(raw, Mapping):
            weights = averaged(stored, file)
        elif all(isinstance(value, Tensor) for value in raw.values()):
            weights = dict(raw)
            check_stored(weights, file)
        else:
            raise DamageError(f"{file} is damaged: model must hold tensors")
        model = self.assembled(source, config, weights, mask)
        model.facts |= {**step_of(stored.get("step")), "weights": "EMA" if has_averages else "not averaged"}
        return model
