"""Tiny folders in the layouts of LLaDA, Dream, a2d and SMDM, and what `transformers`' whole models make of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

#: Tokens, of which one is MASK; the ids above are spare rows.
ROWS, MASK = 40, 33
#: The sizes of all of them: heads of 8 numbers, two of keys and values.
SHAPE = {
    "hidden_size": 32,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "max_position_embeddings": 48,
    "vocab_size": ROWS,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "tie_word_embeddings": False,
}


def empty(kind: str = "Llama", **shape: Any) -> Any:
    """A causal language model of `transformers`."""
    import transformers

    config = getattr(transformers, f"{kind}Config")(**{**SHAPE, **shape})
    return getattr(transformers, f"{kind}ForCausalLM")(config)


def reference(kind: str = "Llama", seed: int = 0, **shape: Any) -> Any:
    """A random causal language model of `transformers`: every parameter is random and non-zero."""
    model = empty(kind, **shape).eval().requires_grad_(False)
    generator = torch.Generator().manual_seed(seed)
    for name, value in model.named_parameters():
        value.copy_((1.0 if "norm" in name else 0.0) + 0.2 * torch.randn(value.shape, generator=generator))
    return model


def logits(model: Any, x: Tensor) -> Tensor:
    """Its outputs [B, L, V], where every position attends to all."""
    seen = torch.zeros(len(x), 1, x.shape[1], x.shape[1])
    return model(input_ids=x, attention_mask=seen, use_cache=False).logits


def tensors(model: Any, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    """Its parameters by name; a tied head is left out."""
    return {name: value.detach().clone().to(dtype) for name, value in model.named_parameters()}


def save(folder: Path, config: dict[str, Any], found: dict[str, Tensor], shards: int = 1, text: bool = False) -> Path:
    """config.json with the weights, in shards with their index if there are several; text: with a tokenizer."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config))
    if shards == 1:
        save_file(found, folder / "model.safetensors")
    else:
        files = {name: f"model-{i % shards + 1:05}-of-{shards:05}.safetensors" for i, name in enumerate(found)}
        for file in sorted(set(files.values())):
            save_file({name: value for name, value in found.items() if files[name] == file}, folder / file)
        index = {"metadata": {"total_size": 1}, "weight_map": files}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    if text:
        save_tokenizer(folder)
    return folder


def save_tokenizer(folder: Path) -> None:
    """A tokenizer of characters, whose added tokens are MASK and an end of text."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    letters = {letter: i for i, letter in enumerate("abcdefghijklmnopqrstuvwxyz .,Ġ?!")}
    engine = Tokenizer(models.BPE(letters, []))
    engine.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    engine.decoder = decoders.ByteLevel()
    engine.add_special_tokens([AddedToken("<|end|>", special=True), AddedToken("<|mask|>", special=True)])
    engine.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<|end|>", "mask_token": "<|mask|>"}))


def save_hugging_face(folder: Path, model: Any, kind: str, dtype: torch.dtype = torch.float32, **more: Any) -> Path:
    """As Dream and a2d are stored: names and keys of `transformers`."""
    config = {key: value for key, value in model.config.to_dict().items() if key in (*SHAPE, "head_dim")}
    config = {**config, "model_type": kind, "rope_theta": 10000.0, **more.pop("config", {})}
    return save(folder, config, tensors(model, dtype), **more)


def save_llada(folder: Path, model: Any, **more: Any) -> Path:
    """As LLaDA is stored."""
    own, keys = model.config, more.pop("config", {})
    config = {
        "model_type": "llada", "d_model": own.hidden_size, "n_heads": own.num_attention_heads,
        "n_kv_heads": own.num_key_value_heads, "n_layers": own.num_hidden_layers, "mask_token_id": MASK,
        "max_sequence_length": own.max_position_embeddings, "rope_theta": 10000.0, "rms_norm_eps": own.rms_norm_eps,
        "mlp_hidden_size": own.intermediate_size, "block_type": "llama", "layer_norm_type": "rms",
        "activation_type": "silu", "rope": True, "alibi": False, "weight_tying": own.tie_word_embeddings,
        "include_qkv_bias": own.model_type == "qwen2", "unknown": [1],
    }  # fmt: skip
    names = {
        "model.embed_tokens": "wte", "model.norm": "ln_f", "lm_head": "ff_out", "model.layers": "blocks",
        ".self_attn.o_proj": ".attn_out", ".self_attn": "", ".mlp.gate_proj": ".ff_proj", ".mlp.up_proj": ".up_proj",
        ".mlp.down_proj": ".ff_out", ".input_layernorm": ".attn_norm", ".post_attention_layernorm": ".ff_norm",
    }  # fmt: skip
    found = {}
    for name, value in tensors(model).items():
        for theirs, llada in names.items():
            name = name.replace(theirs, llada)
        found[f"model.transformer.{name}"] = value
    return save(folder, {**config, **keys}, found, **more)


def save_smdm(folder: Path, model: Any, lit: bool = True, prefix: str = "") -> Path:
    """As SMDM is stored: one file, queries, keys and values of each head together; the last id is MASK."""
    folder.mkdir(parents=True)
    parts, own, found = tensors(model), model.config, {}
    heads, groups = own.num_attention_heads, own.num_key_value_heads
    size = own.hidden_size // heads
    for i in range(own.num_hidden_layers):
        at, to = f"model.layers.{i}.", f"transformer.h.{i}."
        q, k, v = (parts[f"{at}self_attn.{n}_proj.weight"] for n in "qkv")
        rows = []
        for group in range(groups):
            shared = heads // groups
            rows.append(q[group * shared * size : (group + 1) * shared * size])
            rows += [matrix[group * size : (group + 1) * size] for matrix in (k, v)]
        found[f"{to}attn.attn.weight"] = torch.cat(rows)
        for theirs, lit_gpt in {
            "self_attn.o_proj": "attn.proj", "input_layernorm": "norm_1", "post_attention_layernorm": "norm_2",
            "mlp.gate_proj": "mlp.swiglu.w1", "mlp.up_proj": "mlp.swiglu.w2", "mlp.down_proj": "mlp.swiglu.w3",
        }.items():  # fmt: skip
            found[f"{to}{lit_gpt}.weight"] = parts[f"{at}{theirs}.weight"]
    found["transformer.wte.weight"] = parts["model.embed_tokens.weight"]
    found["transformer.ln_f.weight"] = parts["model.norm.weight"]
    found["lm_head.weight"] = parts["lm_head.weight"][:-1].contiguous()
    save_file({prefix + name: value for name, value in found.items()}, folder / "mdm-tiny.safetensors")
    if lit:
        (folder / "lit_config.json").write_text(json.dumps({"n_head": heads, "n_embd": own.hidden_size}))
    return folder
