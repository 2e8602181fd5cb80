"""a2d of dLLM: Llama, Qwen2 and Qwen3 that were made bidirectional and trained on as masked diffusion."""

from __future__ import annotations

from typing import Any, ClassVar

from sedd_cli.checkpoints.formats.base import LLAMA, Format, ModelFiles, register
from sedd_cli.checkpoints.formats.special_tokens import mask_id
from sedd_cli.checkpoints.formats.transformers import hugging_face, size, transformer
from sedd_cli.checkpoints.loaded_model import LoadedModel
from sedd_cli.errors import RequestError

#: What the kinds of network differ in; the length is that of a configuration that has none.
KINDS: dict[str, dict[str, Any]] = {
    "a2d-llama": {"length": 2048},
    "a2d-qwen2": {"length": 32768, "qkv_bias": True},
    "a2d-qwen3": {"length": 32768, "qk_norm": True},
}


@register
class A2D(Format):
    """Autoregressive networks turned into diffusion; MASK is a token of their tokenizer."""

    name: ClassVar[str] = "a2d"
    marks: ClassVar[str] = f"config.json with model_type {', '.join(KINDS)}"
    untrained: ClassVar[str] = LLAMA

    def recognises(self, source: ModelFiles) -> bool:
        return source.model_type in KINDS

    def load(self, source: ModelFiles, mask: str | None = None) -> LoadedModel:
        if "bd3lm" in source.name.lower():  # their configuration does not tell them from the others
            raise RequestError(f"{source.name} is named as a block diffusion model (bd3lm): not supported")
        shape, tensors, tied = hugging_face(source, **KINDS[source.model_type])
        rows = size(source, tensors, "embed_tokens.weight")[0]
        return transformer(source, source.model_type, shape, tensors, mask_id(source, rows, mask), tied)
