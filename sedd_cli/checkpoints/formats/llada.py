"""LLaDA (Nie et al. 2025): a bidirectional Llama under names of its own."""

from __future__ import annotations

from typing import ClassVar

from sedd_cli.checkpoints.formats.base import LLAMA, Format, ModelFiles, register
from sedd_cli.checkpoints.formats.special_tokens import mask_id
from sedd_cli.checkpoints.formats.transformers import real, refuse, renamed, size, transformer, without_head
from sedd_cli.checkpoints.loaded_model import LoadedModel

#: Its names and those of Llama.
NAMES = {
    "wte": "embed_tokens",
    "ln_f": "norm",
    "ff_out": "lm_head",
    "blocks.N.attn_norm": "layers.N.input_layernorm",
    "blocks.N.q_proj": "layers.N.self_attn.q_proj",
    "blocks.N.k_proj": "layers.N.self_attn.k_proj",
    "blocks.N.v_proj": "layers.N.self_attn.v_proj",
    "blocks.N.attn_out": "layers.N.self_attn.o_proj",
    "blocks.N.ff_norm": "layers.N.post_attention_layernorm",
    "blocks.N.ff_proj": "layers.N.mlp.gate_proj",
    "blocks.N.up_proj": "layers.N.mlp.up_proj",
    "blocks.N.ff_out": "layers.N.mlp.down_proj",
}
#: Options of its configuration, which has many more, as every published model has them.
KNOWN = {
    "block_type": "llama",
    "layer_norm_type": ("rms", "rms_norm"),
    "activation_type": "silu",
    "rope": True,
    "alibi": False,
    "include_bias": False,
    "bias_for_layer_norm": False,
    "attention_layer_norm": False,
    "input_emb_norm": False,
    "scale_logits": False,
    "clip_qkv": (),
}


@register
class LLaDA(Format):
    """LLaDA-8B-Base and -Instruct."""

    name: ClassVar[str] = "llada"
    marks: ClassVar[str] = f"config.json with model_type {name}"
    untrained: ClassVar[str] = LLAMA

    def load(self, source: ModelFiles, mask: str | None = None) -> LoadedModel:
        refuse(source, KNOWN)
        heads = source.number("n_heads")
        bare = {n.removeprefix("model.").removeprefix("transformer."): v for n, v in source.tensors.items()}
        tensors = renamed(bare, NAMES)
        tied = without_head(source, "weight_tying", tensors)
        rows, width = size(source, tensors, "embed_tokens.weight")
        shape = {
            "n_blocks": source.number("n_layers"),
            "n_heads": heads,
            "n_kv_heads": source.number("n_kv_heads", default=1 if source.flag("multi_query_attention") else heads),
            "head_dim": max(1, width // heads),
            "length": source.number("max_sequence_length", default=1024),
            "norm_eps": real(source, "rms_norm_eps", 1e-5),
            "rope_theta": real(source, "rope_theta", 10000.0),
            "qkv_bias": source.flag("include_qkv_bias"),
        }
        return transformer(source, self.name, shape, tensors, mask_id(source, rows, mask), tied)
