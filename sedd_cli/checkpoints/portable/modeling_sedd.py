"""A discrete diffusion language model for transformers, in one file that needs torch and transformers alone.

    model = AutoModelForMaskedLM.from_pretrained(folder, trust_remote_code=True, dtype=torch.float32)
    model(input_ids=x, t=t).logits

are log p(x0 | x_t) [B, L, V] for noisy tokens x [B, L] at times t [B] between 0 and 1. A network that does not depend
on the noise needs no t. A model that is defined by its scores alone gives log-scores, and an autoregressive one
(AutoModelForCausalLM) the logits of the next token; `outputs` in config.json names the kind. Without dtype, a model
stored in bf16 computes in bf16.

`sedd export --transformers` writes this file beside the weights.
"""

from __future__ import annotations

import importlib
import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import GenerationMixin, PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutput, MaskedLMOutput


class SeddConfig(PretrainedConfig):
    """What config.json holds beside the shape of the network: what ids, noise and outputs mean."""

    model_type = "sedd"

    def __init__(
        self,
        network: dict[str, Any] | None = None,
        vocabulary: dict[str, Any] | None = None,
        condition: str = "none",
        outputs: str = "log_p_x0",
        noise: dict[str, Any] | None = None,
        **kwargs: Any,
    ):
        self.network, self.vocabulary = network or {}, vocabulary or {}
        self.condition, self.outputs, self.noise = condition, outputs, noise or {}
        super().__init__(**kwargs)


class SeddDiT(nn.Module):
    """SEDD's diffusion transformer, bidirectional, causal, or block-causal; modulated by the noise or not."""

    def __init__(self, shape: dict[str, Any]):
        super().__init__()
        dim, cond, conditioned = shape["hidden_size"], shape["cond_dim"], shape["conditioned"]
        self.heads, self.causal, self.block_size = shape["n_heads"], shape["causal"], shape["block_size"]
        self.vocab_embed = nn.ParameterDict({"embedding": torch.empty(shape["states"], dim)})
        self.sigma_map = _sigma_map(cond) if conditioned else None
        self.rotary_emb = SeddRotary(dim // self.heads)
        self.blocks = nn.ModuleList(SeddBlock(dim, cond, conditioned, shape) for _ in range(shape["n_blocks"]))
        self.output_layer = SeddOutput(dim, cond, conditioned, shape)

    def forward(self, x: Tensor, noise: Tensor, attended: Tensor | None, clean: Tensor | None) -> Tensor:
        """Outputs [B, L, S] for ids x [B, L]. clean [B, L]: what each block is given of earlier ones."""
        if attended is not None and not bool(attended.all()):
            raise ValueError("this network attends to all positions: leave padding out of the batch")
        length, dtype = x.shape[1], self.output_layer.linear.weight.dtype
        seen, at = self._seen(length, clean is not None, x.device), torch.arange(length, device=x.device)
        if clean is not None:
            x, at = torch.cat([x, clean], 1), torch.cat([at, at])
        cos, sin = (table.to(dtype) for table in self.rotary_emb(at))
        cond = None if self.sigma_map is None else F.silu(self.sigma_map["mlp"](_features(noise).to(dtype)))
        h = F.embedding(x, self.vocab_embed["embedding"])
        for block in self.blocks:
            h = block(h, cond, cos, sin, seen)
        return self.output_layer(h[:, :length], cond)

    def _seen(self, length: int, given: bool, device: torch.device) -> Tensor | None:
        """Which position sees which, [L, L], or [2L, 2L] where clean tokens stand behind the noisy ones."""
        if self.block_size is None:
            if given:
                raise ValueError("clean tokens mean nothing to a network that does not fill blocks in turn")
            return torch.ones(length, length, dtype=torch.bool, device=device).tril() if self.causal else None
        block = torch.arange(length, device=device) // self.block_size
        own, earlier = block[:, None] == block, block[:, None] > block
        if not given:
            return own | earlier
        return torch.cat([torch.cat([own, earlier], 1), torch.cat([torch.zeros_like(own), own | earlier], 1)])


class SeddBlock(nn.Module):
    """Attention and MLP, each behind a modulation by the noise, if there is one."""

    def __init__(self, dim: int, cond: int, conditioned: bool, shape: dict[str, Any]):
        super().__init__()
        self.heads = shape["n_heads"]
        self.norm1, self.norm2 = (nn.LayerNorm(dim, bias=shape["norm_bias"]) for _ in range(2))
        self.attn_qkv, self.attn_out = nn.Linear(dim, 3 * dim, bias=False), nn.Linear(dim, dim, bias=False)
        self.mlp = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(approximate="tanh"), nn.Linear(4 * dim, dim))
        self.adaLN_modulation = nn.Linear(cond, 6 * dim) if conditioned else None

    def forward(self, h: Tensor, cond: Tensor | None, cos: Tensor, sin: Tensor, seen: Tensor | None) -> Tensor:
        shift1, scale1, gate1, shift2, scale2, gate2 = (0.0, 0.0, 1.0, 0.0, 0.0, 1.0)
        if self.adaLN_modulation is not None:
            shift1, scale1, gate1, shift2, scale2, gate2 = self.adaLN_modulation(cond)[:, None].chunk(6, -1)
        qkv = self.attn_qkv(self.norm1(h) * (1 + scale1) + shift1)
        q, k, v = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in qkv.chunk(3, -1))
        q, k = (part * cos + _half_turned(part) * sin for part in (q, k))
        a = F.scaled_dot_product_attention(q, k, v, attn_mask=seen)
        h = h + gate1 * self.attn_out(a.transpose(1, 2).flatten(2))
        return h + gate2 * self.mlp(self.norm2(h) * (1 + scale2) + shift2)


class SeddOutput(nn.Module):
    """Final modulation and the linear head."""

    def __init__(self, dim: int, cond: int, conditioned: bool, shape: dict[str, Any]):
        super().__init__()
        self.norm_final = nn.LayerNorm(dim, bias=shape["norm_bias"])
        self.linear = nn.Linear(dim, shape["states"])
        self.adaLN_modulation = nn.Linear(cond, 2 * dim) if conditioned else None

    def forward(self, h: Tensor, cond: Tensor | None) -> Tensor:
        h = self.norm_final(h)
        if self.adaLN_modulation is not None:
            shift, scale = self.adaLN_modulation(cond)[:, None].chunk(2, -1)
            h = h * (1 + scale) + shift
        return self.linear(h)


class SeddRotary(nn.Module):
    """Angles of positions; their frequencies are stored with the weights."""

    inv_freq: Tensor

    def __init__(self, head_dim: int):
        super().__init__()
        # not in the dtype of the weights: rounded to bf16, angles at far positions would be wrong
        self.register_buffer("inv_freq", torch.empty(head_dim // 2, dtype=torch.float32))

    def forward(self, at: Tensor) -> tuple[Tensor, Tensor]:
        angle = torch.outer(at.float(), self.inv_freq.float())
        angle = torch.cat([angle, angle], -1)
        return angle.cos(), angle.sin()


class SeddLlama(nn.Module):
    """Llama, Qwen2 or Qwen3 of transformers, bidirectional; `shifted`: an output is about the next position (Dream)."""

    def __init__(self, shape: dict[str, Any]):
        super().__init__()
        self.shape = shape
        self.kind = "Qwen3" if shape["qk_norm"] else "Qwen2" if shape["qkv_bias"] else "Llama"
        described = self._described()
        self.embed_tokens = nn.Embedding(shape["rows"], shape["hidden_size"])
        layers = [self._part("DecoderLayer")(described, i) for i in range(shape["n_blocks"])]
        self.layers = nn.ModuleList(layers)
        self.norm = self._part("RMSNorm")(shape["hidden_size"], shape["norm_eps"])
        self.lm_head = None if shape["tied"] else nn.Linear(shape["hidden_size"], shape["outputs"], bias=False)
        for layer in layers:
            layer.self_attn.is_causal = False

    def forward(self, x: Tensor, noise: Tensor, attended: Tensor | None, clean: Tensor | None) -> Tensor:
        """Outputs [B, L, S] for ids x [B, L]."""
        if clean is not None:
            raise ValueError("clean tokens mean nothing to a network that does not fill blocks in turn")
        length = x.shape[1]
        seen = None if attended is None else attended.bool()[:, None, None, :].expand(-1, 1, length, -1)
        h = self.embed_tokens(x)
        rotary = self._part("RotaryEmbedding")(self._described()).to(x.device)  # here, not among tensors to be loaded
        angles = rotary(h.float(), torch.arange(length, device=x.device)[None])
        if self.shape["rounded_rope"]:
            angles = tuple(table.bfloat16() for table in angles)
        angles = tuple(table.to(h.dtype) for table in angles)
        for layer in self.layers:
            h = layer(h, attention_mask=seen, position_embeddings=angles)
            h = h[0] if isinstance(h, tuple) else h  # a tuple in older versions of transformers
        h = self.norm(h)
        if self.shape["shifted"]:
            h = torch.cat([h[:, :1], h[:, :-1]], 1)
        return F.linear(h, (self.embed_tokens if self.lm_head is None else self.lm_head).weight)

    def _part(self, name: str) -> Any:
        module = importlib.import_module(f"transformers.models.{self.kind.lower()}.modeling_{self.kind.lower()}")
        return getattr(module, self.kind + name)

    def _described(self) -> Any:
        shape = self.shape
        made = getattr(importlib.import_module("transformers"), f"{self.kind}Config")
        return made(
            hidden_size=shape["hidden_size"], intermediate_size=shape["mlp_size"], head_dim=shape["head_dim"],
            num_hidden_layers=shape["n_blocks"], num_attention_heads=shape["n_heads"],
            num_key_value_heads=shape["n_kv_heads"], rms_norm_eps=shape["norm_eps"], rope_theta=shape["rope_theta"],
            rope_scaling=dict(shape["rope_scaling"]) or None, max_position_embeddings=shape["length"],
            attention_bias=shape.get("attention_bias", False), mlp_bias=shape.get("mlp_bias", False),
            attn_implementation="sdpa",
        )  # fmt: skip


class SeddModel(PreTrainedModel):
    """What both kinds of model share: the network, and its input for the noise."""

    config_class = SeddConfig
    base_model_prefix = "network"

    def __init__(self, config: SeddConfig):
        super().__init__(config)
        self.network = {"dit": SeddDiT, "transformer": SeddLlama}[config.network["kind"]](config.network)
        self.post_init()

    def noise_input(self, x: Tensor, t: Tensor | float | None) -> Tensor:
        """The number [B] that the network gets at times t [B]: the total noise, t, or 0."""
        if self.config.condition == "none":
            return torch.zeros(len(x), device=x.device)
        if t is None:
            raise ValueError("this network needs the noise level: pass the time t [B] of each sequence, from 0 to 1")
        t = torch.as_tensor(t, dtype=torch.float64, device=x.device).expand(len(x))
        noise = self.config.noise
        if self.config.condition == "time":
            return t.clamp(noise["t_eps"], 1 - noise["t_eps"]).float()
        if noise["name"] == "geometric":
            return (noise["sigma_min"] * (math.log(noise["sigma_max"] / noise["sigma_min"]) * t).exp()).float()
        # the share of moved tokens: sin(πt/2), a power of t, or t itself
        moved = (math.pi / 2 * t).sin() if noise["name"] == "cosine" else t ** noise.get("power", 1.0)
        return -torch.log1p(-(1 - noise["eps"]) * moved).float()


class SeddForMaskedLM(SeddModel):
    """log p(x0 | x_t), or the log-scores of a model that gives no such distribution."""

    def forward(
        self,
        input_ids: Tensor,
        t: Tensor | float | None = None,
        attention_mask: Tensor | None = None,
        clean: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        return_dict: bool | None = None,
    ) -> MaskedLMOutput:
        """Logits [B, L, V] for ids [B, L] at times t; clean [B, L]: see `SeddDiT.forward`."""
        z = self.network(input_ids, self.noise_input(input_ids, t), attention_mask, clean).float()
        if self.config.outputs == "log_score":
            return MaskedLMOutput(logits=z.scatter(-1, input_ids[..., None], 0.0))
        return MaskedLMOutput(logits=self._log_p_x0(z, input_ids))

    def _log_p_x0(self, z: Tensor, x: Tensor) -> Tensor:
        own = self.config.vocabulary
        mask = own["mask"]
        z = F.pad(z, (0, own["rows"] - z.shape[-1]), value=torch.finfo(z.dtype).min)  # MASK may lack an output
        if mask is not None and not own["counts_mask"]:
            z = z.index_fill(-1, torch.tensor(mask, device=z.device), -math.inf)
        log_p = z.log_softmax(-1)
        if mask is not None and own["carries_over"]:
            stays = torch.full_like(log_p, -math.inf).scatter(-1, x[..., None], 0.0)
            log_p = torch.where((x == mask)[..., None], log_p, stays)
        return log_p


class SeddForCausalLM(SeddModel, GenerationMixin):
    """Logits of the next token. The network reads MASK in front of a text and has no cache."""

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        return_dict: bool | None = None,
    ) -> CausalLMOutput:
        """Logits [B, L, N] for ids [B, L]."""
        own = self.config.vocabulary
        if attention_mask is not None and not bool(attention_mask.all()):
            raise ValueError("this network attends to all earlier positions: leave padding out of the batch")
        x = F.pad(input_ids, (1, 0), value=own["mask"])
        z = self.network(x, self.noise_input(x, None), None, None)[:, 1:].float()
        return CausalLMOutput(logits=z[..., : own["rows"] - 1])

    def first_token(self, batch: int = 1) -> Tensor:
        """Logits [B, N] of a text's first token."""
        own = self.config.vocabulary
        x = torch.full((batch, 1), own["mask"], device=self.device)
        return self.network(x, self.noise_input(x, None), None, None)[:, 0, : own["rows"] - 1].float()

    def prepare_inputs_for_generation(self, input_ids: Tensor, *_: Any, **__: Any) -> dict[str, Any]:
        """All tokens so far: there is no cache."""
        return {"input_ids": input_ids}


def _sigma_map(cond: int) -> nn.ModuleDict:
    return nn.ModuleDict({"mlp": nn.Sequential(nn.Linear(256, cond), nn.SiLU(), nn.Linear(cond, cond))})


def _features(noise: Tensor) -> Tensor:
    """Sinusoids of the noise [B]: [B, 256], in float32."""
    freqs = torch.exp(-math.log(10_000.0) / 128 * torch.arange(128, device=noise.device).float())
    angle = noise.float()[:, None] * freqs
    return torch.cat([angle.cos(), angle.sin()], -1)


def _half_turned(q: Tensor) -> Tensor:
    first, second = q.chunk(2, -1)
    return torch.cat([-second, first], -1)
