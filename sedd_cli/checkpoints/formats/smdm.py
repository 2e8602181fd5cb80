"""SMDM (Nie et al. 2024): a bidirectional Llama of lit-gpt in one safetensors file, without a configuration."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor

from sedd_cli.checkpoints.formats.base import CONFIG, LLAMA, Format, Mark, ModelFiles, register, unwrapped
from sedd_cli.checkpoints.formats.transformers import renamed, size, transformer
from sedd_cli.checkpoints.loaded_model import LoadedModel
from sedd_cli.checkpoints.tensors import read_tensors, tensor_shapes
from sedd_cli.errors import DamageError, RequestError, displayed
from sedd_cli.system.documents import read_json

NAMES = {
    "transformer.wte": "embed_tokens",
    "transformer.ln_f": "norm",
    "transformer.h.N.norm_1": "layers.N.input_layernorm",
    "transformer.h.N.attn.proj": "layers.N.self_attn.o_proj",
    "transformer.h.N.norm_2": "layers.N.post_attention_layernorm",
    "transformer.h.N.mlp.swiglu.w1": "layers.N.mlp.gate_proj",
    "transformer.h.N.mlp.swiglu.w2": "layers.N.mlp.up_proj",
    "transformer.h.N.mlp.swiglu.w3": "layers.N.mlp.down_proj",
}
#: A matrix that no other format has: queries, keys and values of a layer.
QKV = "transformer.h.{}.attn.attn.weight"
#: lit-gpt's configuration, where somebody has put it beside the weights.
LIT_CONFIG = "lit_config.json"
#: The tokenizer of the published models, and the rows of their embedding.
TOKENIZER, PUBLISHED_ROWS = "TinyLlama/TinyLlama-1.1B-intermediate-step-1431k-3T", 32001
#: The trained length of the published models, and the smallest width of theirs.
LENGTH, LEAST_WIDTH = 2048, 256


@register
class SMDM(Format):
    """MASK is the last row of the embedding and has no output. The tokenizer is TinyLlama's, and not in the file."""

    name: ClassVar[str] = "smdm"
    marks: ClassVar[str] = f"one safetensors file with {QKV.format(0)}, without {CONFIG}"
    marked_by: ClassVar[Mark] = Mark.FILE
    untrained: ClassVar[str] = LLAMA

    def recognises(self, source: ModelFiles) -> bool:
        file = weights_file(source.path)
        return file is not None and QKV.format(0) in map(unwrapped, tensor_shapes(file))

    def files(self, source: ModelFiles) -> list[Path]:
        file = weights_file(source.path)
        return [file] if file else []

    def load(self, source: ModelFiles, mask: str | None = None) -> LoadedModel:
        file = weights_file(source.path)
        assert file is not None
        found = {unwrapped(name): value for name, value in read_tensors(file).items()}
        tensors = renamed(found, NAMES)
        rows, width = size(source, tensors, "embed_tokens.weight")
        if size(source, tensors, "lm_head.weight")[0] != rows - 1:
            raise RequestError(
                f"{source.name} has an output for each of its {rows:,} rows: an autoregressive model of SMDM, whose "
                "masked ones have none for MASK"
            )
        lit = _lit_config(source.folder)
        heads = lit["n_head"] if "n_head" in lit else _heads(source, width, tensors)
        layers = sum(name.endswith(".attn.attn.weight") for name in found)
        for layer in range(layers):
            if (qkv := tensors.pop(QKV.format(layer), None)) is None:
                raise DamageError(f"the weights of {source.name} lack {QKV.format(layer)}")
            parts = split(qkv, heads, width, source)
            tensors |= {f"layers.{layer}.self_attn.{name}_proj.weight": part for name, part in parts.items()}
        shape = {
            "n_blocks": layers,
            "n_heads": heads,
            "n_kv_heads": tensors["layers.0.self_attn.k_proj.weight"].shape[0] * heads // width,
            "head_dim": width // heads,
            "length": lit.get("block_size", LENGTH),
            "norm_eps": 1e-5,
            "rope_theta": 10000.0,
            "rounded_rope": True,
        }
        if mask is not None and mask != str(rows - 1):
            raise RequestError(f"MASK of {source.name} is id {rows - 1}, found --mask-token {displayed(mask)}")
        model = transformer(source, self.name, shape, tensors, rows - 1)
        if model.tokenizer_source is None and rows == PUBLISHED_ROWS:
            model.tokenizer_source = TOKENIZER
        return model


def weights_file(path: Path) -> Path | None:
    """The file itself, or the only safetensors file of a folder without a configuration."""
    if path.is_file():
        return path if path.suffix == ".safetensors" else None
    found = list(path.glob("*.safetensors")) if path.is_dir() and not (path / CONFIG).exists() else []
    return found[0] if len(found) == 1 else None


def split(qkv: Tensor, heads: int, width: int, source: ModelFiles) -> dict[str, Tensor]:
    """Queries, keys and values of lit-gpt's fused matrix, in which a group holds its queries, one key and one value."""
    head = width // heads if heads and width % heads == 0 else 0
    groups = (qkv.shape[0] - width) // (2 * head) if head else 0
    if groups < 1 or heads % groups or qkv.shape != ((heads + 2 * groups) * head, width):
        raise DamageError(f"{source.name}: {list(qkv.shape)} are no queries, keys and values of {heads} heads")
    by_group = qkv.view(groups, heads // groups + 2, head, width)
    parts = {"q": by_group[:, :-2], "k": by_group[:, -2], "v": by_group[:, -1]}
    return {name: part.reshape(-1, width).contiguous() for name, part in parts.items()}


def _heads(source: ModelFiles, width: int, tensors: Mapping[str, Tensor]) -> int:
    """The number of heads, which is not in the file: heads of 64 in published models below width 1280, else of 128.

    The model of 75 million parameters, of width 640 with an MLP of 1600, has heads of 80.
    """
    mlp = size(source, tensors, "layers.0.mlp.gate_proj.weight")[0]
    head = 80 if (width, mlp) == (640, 1600) else 64 if width < 1280 else 128
    if width < LEAST_WIDTH or width % head:
        raise RequestError(
            f"{source.name}: the number of heads is unknown, no published model has width {width}: put a {LIT_CONFIG} "
            "with n_head beside it"
        )
    return width // head


def _lit_config(folder: Path) -> dict[str, Any]:
    """n_head and block_size of lit-gpt's configuration, those that are there."""
    file = folder / LIT_CONFIG
    found = read_json(file) if file.is_file() else {}
    known = {key: found[key] for key in ("n_head", "block_size") if isinstance(found, Mapping) and key in found}
    for key, value in known.items():
        if type(value) is not int or value < 1:
            raise RequestError(f"{file}: {key} must be a positive number, found {displayed(value)}")
    return known
