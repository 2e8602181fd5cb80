"""Llama, Qwen2 and Qwen3 of `transformers` without their causal mask, as networks of masked diffusion."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sedd_cli.errors import RequestError, displayed, not_one_of
from sedd_cli.models.head import Readout
from sedd_cli.models.network import LanguageNetwork
from sedd_cli.models.shape import MOST_LENGTH, MOST_SIZE

#: Numbers of the head that are held in float32 at once, where they are stored in another precision.
HEAD_BLOCK = 1 << 22
#: The entries of rope_scaling that a kind cannot be computed without, and those that hold a number for each frequency.
NEEDED = {
    "linear": ("factor",),
    "dynamic": ("factor",),
    "yarn": ("factor",),
    "longrope": ("short_factor", "long_factor"),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor"),
}
LISTS = NEEDED["longrope"]


@dataclass(frozen=True)
class TransformerConfig:
    """Shape of a Llama-like network. `length`: the most tokens of a sequence.

    qkv_bias: queries, keys and values have biases (Qwen2). qk_norm: queries and keys are normalised (Qwen3).
    rope_scaling: the entries of `transformers`' rope_scaling. rounded_rope: cosines and sines are rounded to bfloat16.
    shifted: the output at a position is about the next token (Dream). attention_bias, mlp_bias: all matrices of
    attention, and of the MLP (Llama), have biases.
    """

    n_blocks: int
    hidden_size: int
    n_heads: int
    n_kv_heads: int
    head_dim: int
    mlp_size: int
    length: int
    norm_eps: float
    rope_theta: float
    rope_scaling: tuple[tuple[str, Any], ...] = ()
    qkv_bias: bool = False
    qk_norm: bool = False
    rounded_rope: bool = False
    shifted: bool = False
    #: Not spelled, so that networks without these biases are spelled, and their results found, as before.
    attention_bias: bool = field(default=False, repr=False)
    mlp_bias: bool = field(default=False, repr=False)

    def __post_init__(self) -> None:
        for key in ("n_blocks", "hidden_size", "n_heads", "n_kv_heads", "head_dim", "mlp_size", "length"):
            most = MOST_LENGTH if key == "length" else MOST_SIZE
            if not 1 <= getattr(self, key) <= most:
                raise ValueError(f"{key} must lie between 1 and {most:,}, found {getattr(self, key):,}")
        if self.n_heads % self.n_kv_heads:
            raise ValueError(f"n_heads must be a multiple of n_kv_heads, found {self.n_heads} and {self.n_kv_heads}")
        if self.head_dim % 2:
            raise ValueError(f"head_dim must be even (rotary turns pairs), found {self.head_dim}")
        if self.norm_eps <= 0 or self.rope_theta <= 0:
            raise ValueError(f"norm_eps and rope_theta must be positive, found {self.norm_eps} and {self.rope_theta}")


def rope_kind(scaling: Mapping[str, Any], where: str) -> str:
    """How angles are scaled, by the entries of rope_scaling.

    Raises:
        RequestError: `transformers` does not know it, or it lacks an entry that it needs. where: what has these
            entries, for the message.
    """
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    key = "type" if "type" in scaling and "rope_type" not in scaling else "rope_type"
    kind, known = scaling.get(key, "default"), list({"default": None, **ROPE_INIT_FUNCTIONS})
    if kind not in known:
        raise RequestError(not_one_of(f"{where}.{key}", known, kind))
    for name in NEEDED.get(kind, ()):
        value = scaling.get(name)
        if value is None:
            raise RequestError(f"{where}.{name} is missing, {key} {displayed(kind)} needs it")
        numbers, what = (value, "a list of positive numbers") if name in LISTS else ([value], "a positive number")
        if not isinstance(numbers, list) or not all(map(_positive, numbers)):
            raise RequestError(f"{where}.{name} must be {what}, found {displayed(value)}")
    return kind


def _positive(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < float("inf")


class ConvertedLinear(nn.Linear):
    """A linear layer whose parameters are converted to the precision of its input, for as long as it is computed."""

    def forward(self, input: Tensor) -> Tensor:
        if torch.is_autocast_enabled(input.device.type):
            return super().forward(input)
        bias = None if self.bias is None else self.bias.to(input.dtype)
        return F.linear(input, self.weight.to(input.dtype), bias)


class BidirectionalTransformer(LanguageNetwork):
    """x [B, L] → z [B, L, S]; the noise level is not an input.

    Parameters have the names of `transformers` and no memory until tensors are assigned to them. They may be stored in
    a lower precision than they are used in: one matrix at a time is converted, so that a network takes little more
    memory than its file.

    Args:
        config: Its shape.
        rows: Tokens of the embedding.
        outputs: S, the rows of the head.
        tied: Whether the head is the embedding.
    """

    config: TransformerConfig
    libraries = ("transformers",)

    def __init__(self, config: TransformerConfig, rows: int, outputs: int, tied: bool):
        super().__init__()
        self.config, self.states, self.autocast, self.causal = config, outputs, None, False
        self.first_given = config.shifted
        layer, norm, rotary, described = _parts(config)
        with torch.device("meta"):
            self.embed_tokens = nn.Embedding(rows, config.hidden_size)
            layers = [layer(described, i) for i in range(config.n_blocks)]
            self.layers = nn.ModuleList(layers)
            self.norm = norm(config.hidden_size, config.norm_eps)
            self.lm_head = None if tied else nn.Linear(config.hidden_size, outputs, bias=False)
            for made in layers:
                made.self_attn.is_causal = False
                for part in (made.self_attn, made.mlp):
                    for name, linear in list(part.named_children()):
                        if isinstance(linear, nn.Linear):
                            setattr(
                                part,
                                name,
                                ConvertedLinear(linear.in_features, linear.out_features, linear.bias is not None),
                            )
        self.rotary = rotary(described)  # outside of meta: its frequencies are computed, not loaded

    def hidden(self, x: Tensor, sigma: Tensor, attended: Tensor | None = None) -> Tensor:
        """The head's input [B, L, D]. attended: whether a position is attended to, [B, L]; default: all are."""
        mask = None if attended is None else attended.bool()[:, None, None, :].expand(-1, 1, x.shape[1], -1)
        with torch.autocast(x.device.type, self.autocast or torch.bfloat16, enabled=self.autocast is not None):
            h = self._full(F.embedding(x, self.embed_tokens.weight))
            angles = self._angles(x.shape[1], h)
            for layer in self.layers:
                h = layer(h, attention_mask=mask, position_embeddings=angles)
                h = h[0] if isinstance(h, tuple) else h  # a tuple in older versions of transformers
            h = self._full(self.norm(h))
        return torch.cat([h[:, :1], h[:, :-1]], 1) if self.config.shifted else h

    def head(self, hidden: Tensor) -> Tensor:
        """z [..., S] from hidden [..., D], in float32 or better."""
        weight = self.embed_tokens.weight if self.lm_head is None else self.lm_head.weight
        whole = weight.dtype == torch.float32
        parts = weight.split(len(weight) if whole else max(1, HEAD_BLOCK // weight.shape[1]))
        mixed = self.autocast == torch.bfloat16
        z = [Readout(part, part.new_zeros(len(part), dtype=torch.float32), mixed)(hidden) for part in parts]
        return z[0] if len(z) == 1 else torch.cat(z, -1)

    def kernel(self, length: int | None = None) -> str:
        """The attention of `torch`, at any length."""
        return "sdpa"

    def cast_for_inference(self, dtype: torch.dtype | None) -> None:
        """Compute in mixed precision of this dtype, or in float32 if it is None; the layers' matrices are cast once."""
        self.autocast = dtype
        if dtype is not None:
            for module in self.layers.modules():
                if isinstance(module, nn.Linear):
                    module.to(dtype)

    def _angles(self, length: int, like: Tensor) -> tuple[Tensor, Tensor]:
        """cos and sin [1, L, head_dim] in float32."""
        cos, sin = self.rotary(like, torch.arange(length, device=like.device)[None])
        return (cos.bfloat16().float(), sin.bfloat16().float()) if self.config.rounded_rope else (cos, sin)

    @staticmethod
    def _full(value: Tensor) -> Tensor:
        return value.to(torch.promote_types(value.dtype, torch.float32))


def _parts(config: TransformerConfig) -> tuple[Any, Any, Any, Any]:
    """The classes of a layer, of the normalisation and of the rotary embedding, and the configuration they take."""
    if config.qk_norm:
        from transformers import Qwen3Config as Described
        from transformers.models.qwen3.modeling_qwen3 import Qwen3DecoderLayer as Layer
        from transformers.models.qwen3.modeling_qwen3 import Qwen3RMSNorm as Norm
        from transformers.models.qwen3.modeling_qwen3 import Qwen3RotaryEmbedding as Rotary
    elif config.qkv_bias:
        from transformers import Qwen2Config as Described
        from transformers.models.qwen2.modeling_qwen2 import Qwen2DecoderLayer as Layer
        from transformers.models.qwen2.modeling_qwen2 import Qwen2RMSNorm as Norm
        from transformers.models.qwen2.modeling_qwen2 import Qwen2RotaryEmbedding as Rotary
    else:
        from transformers import LlamaConfig as Described
        from transformers.models.llama.modeling_llama import LlamaDecoderLayer as Layer
        from transformers.models.llama.modeling_llama import LlamaRMSNorm as Norm
        from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding as Rotary
    options: dict[str, Any] = {
        "hidden_size": config.hidden_size,
        "intermediate_size": config.mlp_size,
        "num_hidden_layers": config.n_blocks,
        "num_attention_heads": config.n_heads,
        "num_key_value_heads": config.n_kv_heads,
        "head_dim": config.head_dim,
        "rms_norm_eps": config.norm_eps,
        "max_position_embeddings": config.length,
        "rope_theta": config.rope_theta,
        "rope_scaling": dict(config.rope_scaling) or None,
        "attention_bias": config.attention_bias,
        "mlp_bias": config.mlp_bias,
        "attn_implementation": "sdpa",
    }
    return Layer, Norm, Rotary, Described(**options)
