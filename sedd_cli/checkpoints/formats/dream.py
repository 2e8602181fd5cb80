"""Dream (Ye et al. 2025): a bidirectional Qwen2 whose output at a position is about the next token."""

from __future__ import annotations

from typing import ClassVar

from sedd_cli.checkpoints.formats.base import LLAMA, Format, ModelFiles, register
from sedd_cli.checkpoints.formats.special_tokens import mask_id
from sedd_cli.checkpoints.formats.transformers import hugging_face, size, transformer
from sedd_cli.checkpoints.loaded_model import LoadedModel
from sedd_cli.data.tokenizers.huggingface import HuggingFaceTokenizer

#: The length of a configuration that has none.
LENGTH = 32768


@register
class Dream(Format):
    """Dream-v0-Base-7B and -Instruct-7B."""

    name: ClassVar[str] = "dream"
    marks: ClassVar[str] = f"config.json with model_type {name}"
    untrained: ClassVar[str] = LLAMA

    def load(self, source: ModelFiles, mask: str | None = None) -> LoadedModel:
        shape, tensors, tied = hugging_face(source, LENGTH, qkv_bias=True, shifted=True)
        rows = size(source, tensors, "embed_tokens.weight")[0]
        model = transformer(source, self.name, shape, tensors, mask_id(source, rows, mask), tied)
        folder = source.folder
        if model.tokenizer_source is None and all((folder / file).is_file() for file in ("vocab.json", "merges.txt")):
            # the class that its files name is code of its own; what it does is Qwen2's
            model.tokenizer, model.tokenizer_source = HuggingFaceTokenizer.of_qwen2(folder), str(folder)
        return model
