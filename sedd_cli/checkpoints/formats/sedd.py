"""Our own layout for models of any kind, which `transformers` opens as well (`sedd export --transformers`)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch

from sedd_cli.checkpoints.bidirectional import BidirectionalTransformer
from sedd_cli.checkpoints.formats.base import CONFIG, Format, ModelFiles, register
from sedd_cli.checkpoints.loaded_model import LoadedModel
from sedd_cli.checkpoints.portable.config import MODEL_TYPE, PREFIX, portable_model
from sedd_cli.checkpoints.published import OURS, RECIPE, TOKENIZER
from sedd_cli.checkpoints.tensors import load_weights
from sedd_cli.data.corpora.local import as_path
from sedd_cli.data.tokenizers import holds_tokenizer
from sedd_cli.errors import DamageError, RequestError
from sedd_cli.models.network import Adapted
from sedd_cli.recipe import load_recipe


@register
class Sedd(Format):
    """A folder with config.json, model.safetensors, and a modeling file that is not read here."""

    name: ClassVar[str] = MODEL_TYPE
    marks: ClassVar[str] = f"config.json with model_type {MODEL_TYPE}"

    def copies(self, source: ModelFiles) -> bool:
        network = source.config.get("network")
        return not isinstance(network, Mapping) or network.get("kind") != "transformer"

    def load(self, source: ModelFiles, mask: str | None = None) -> LoadedModel:
        model = portable_model(source.config, str(source.folder / CONFIG), source.name, len(source.tensors))
        if mask is not None:
            raise RequestError(f"--mask-token means nothing with {source.name}, which names its own")
        inner = model.net.net if isinstance(model.net, Adapted) else model.net
        tensors = {name.removeprefix(PREFIX): value for name, value in source.tensors.items()}
        stored_as_is = isinstance(inner, BidirectionalTransformer)
        load_weights(inner, tensors, source.name, copy=not stored_as_is, dtype=None if stored_as_is else torch.float32)
        ours = source.config.get(OURS)
        if isinstance(ours, Mapping):
            model.facts |= {
                k: ours[k] for k, kind in (("step", int), ("weights", str)) if isinstance(ours.get(k), kind)
            }
        model.facts.setdefault("weights", "as published")
        if stored := {str(v.dtype).removeprefix("torch.") for v in tensors.values()} - {"float32"}:
            model.facts["stored"] = " and ".join(sorted(stored))
        if holds_tokenizer(source.folder):
            model.tokenizer_source = as_path(source.folder)
        elif (file := source.folder / TOKENIZER).is_file():
            model.tokenizer_source = str(file)
        elif isinstance(ours, Mapping) and isinstance(ours.get("tokenizer"), str):
            model.tokenizer_source = ours["tokenizer"]
        self._add_recipe(source, model)
        return model

    def _add_recipe(self, source: ModelFiles, model: LoadedModel) -> None:
        """The recipe beside the model, if there is one and it describes this model."""
        file = source.folder / RECIPE
        if not file.is_file() or model.vocabulary is not None:
            return
        try:
            recipe = load_recipe(file)
            parts: tuple[Any, ...] = recipe.objective.make(), recipe.graph.make(vocab_size=model.vocab_size)
            if (*parts, recipe.noise.make()) != (model.parametrized, model.graph, model.schedule):
                raise RequestError(f"it describes another model than {CONFIG}")
            model.recipe = recipe
        except (RequestError, DamageError) as error:  # config.json alone determines the model
            model.facts["recipe"] = f"not read ({error})"
