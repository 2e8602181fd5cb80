"""The score network: an encoder-only diffusion transformer (appendix C.2; Peebles and Xie 2023).

Parameter names, shapes and forward pass are those of the published checkpoints, so that
they load without a mapping.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from sedd_cli.models.attention import ATTENTION, NAMES, KVCache, Rotary, choose, masked, rotate
from sedd_cli.models.cuda_graphs import GraphedTrunk
from sedd_cli.models.head import Readout
from sedd_cli.models.layers import Embedding, LayerNorm, SigmaEmbedding, dropout, full_precision, modulate
from sedd_cli.models.modulation import PLAIN, AdaLN, Modulation
from sedd_cli.models.network import LanguageNetwork

#: q, k, v [B, H, L, D] and whether attention is causal → [B, H, L, D].
Attend = Callable[..., Tensor]


#: The most tokens of a sequence, and the largest other number of a shape: a file that declares more is refused
#: before memory is allocated.
MOST_LENGTH, MOST_SIZE = 1 << 20, 1 << 16


@dataclass(frozen=True)
class DiTConfig:
    """Shape of the network. `length` is the trained length in tokens; rotary angles need no weights."""

    n_blocks: int = 12
    hidden_size: int = 768
    n_heads: int = 12
    cond_dim: int = 128
    dropout: float = 0.1
    length: int = 1024
    attention: str = "auto"

    def __post_init__(self) -> None:
        for key in ("n_blocks", "hidden_size", "n_heads", "cond_dim", "length"):
            most = MOST_LENGTH if key == "length" else MOST_SIZE
            if (found := getattr(self, key)) < 1:
                raise ValueError(f"{key} must be at least 1, found {found}")
            if found > most:
                raise ValueError(f"{key} must be at most {most:,}, found {found:,}")
        if self.hidden_size % (2 * self.n_heads):
            raise ValueError(
                f"hidden_size must be a multiple of 2·n_heads (rotary turns pairs), "
                f"found hidden_size {self.hidden_size} and n_heads {self.n_heads}"
            )
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must lie in [0, 1), found {self.dropout}")
        if self.attention not in NAMES:
            raise ValueError(f"attention must be one of {', '.join(NAMES)}, found {self.attention!r}")


@dataclass(frozen=True)
class Variant:
    """How networks of others differ from SEDD's. No recipe chooses it.

    conditioned: the noise modulates every block (adaLN); otherwise the network is not told of it. norm_bias: layer
    normalisations have a bias. block_size: positions attend to their own block of so many and to earlier blocks only.
    """

    conditioned: bool = True
    norm_bias: bool = False
    block_size: int | None = None


#: SEDD's own network.
SEDD = Variant()


class Block(nn.Module):
    """Attention and MLP, each behind an adaLN-zero modulation by the noise condition, where there is one."""

    def __init__(self, config: DiTConfig, variant: Variant = SEDD):
        super().__init__()
        dim = config.hidden_size
        self.n_heads = config.n_heads
        self.dropout = config.dropout
        self.norm1 = LayerNorm(dim, variant.norm_bias)
        self.attn_qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.attn_out = nn.Linear(dim, dim, bias=False)
        self.norm2 = LayerNorm(dim, variant.norm_bias)
        self.mlp = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(approximate="tanh"), nn.Linear(4 * dim, dim))
        self.adaLN_modulation = zero_linear(config.cond_dim, 6 * dim) if variant.conditioned else None

    def forward(
        self, h: Tensor, cond: Tensor | None, cos: Tensor, sin: Tensor, attend: Attend, causal: bool = False
    ) -> Tensor:
        attention, mlp = self.modulations(cond)
        B, L, D = h.shape
        qkv = self.attn_qkv(attention.enter(self.norm1(h)))
        qk, v = qkv.split((2 * D, D), -1)
        q, k = rotate(qk, cos, sin, D // self.n_heads).split(D, -1)
        q, k, v = (t.unflatten(-1, (self.n_heads, -1)).transpose(1, 2) for t in (q, k, v))
        a = attend(q, k, v, causal) if causal else attend(q, k, v)
        a = self.attn_out(a.transpose(1, 2).reshape(B, L, D))
        h = attention.leave(h, self._drop(a))
        return mlp.leave(h, self._drop(self.mlp(mlp.enter(self.norm2(h)))))

    def modulations(self, cond: Tensor | None) -> tuple[Modulation, Modulation]:
        """Those of attention and of the MLP, for conditions [B, C]."""
        if self.adaLN_modulation is None:
            return PLAIN, PLAIN
        shift_msa, scale_msa, gate_msa, shift_mlp, scale_mlp, gate_mlp = self.adaLN_modulation(cond)[:, None].chunk(
            6, dim=-1
        )
        return AdaLN(shift_msa, scale_msa, gate_msa), AdaLN(shift_mlp, scale_mlp, gate_mlp)

    def _drop(self, a: Tensor) -> Tensor:
        return dropout(a, self.dropout) if self.training else a


class OutputLayer(nn.Module):
    """Final modulation and the linear head [D → S]; zero-initialised, so a fresh network's outputs are 0 everywhere."""

    def __init__(self, config: DiTConfig, states: int, variant: Variant = SEDD):
        super().__init__()
        self.norm_final = LayerNorm(config.hidden_size, variant.norm_bias)
        self.linear = zero_linear(config.hidden_size, states)
        self.adaLN_modulation = zero_linear(config.cond_dim, 2 * config.hidden_size) if variant.conditioned else None

    def modulated(self, h: Tensor, cond: Tensor | None) -> Tensor:
        """The input of `linear`."""
        h = self.norm_final(h)
        if self.adaLN_modulation is None:
            return h
        shift, scale = self.adaLN_modulation(cond)[:, None].chunk(2, dim=-1)
        return modulate(h, shift, scale)


def zero_linear(inputs: int, outputs: int) -> nn.Linear:
    """A linear layer whose weights and biases are 0."""
    layer = nn.Linear(inputs, outputs)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


class DiT(LanguageNetwork):
    """x [B, L] and sigma [B] → z [B, L, S], in two parts: the trunk `hidden` and the `head`.

    `autocast` is the dtype of mixed precision in both parts, or None; either way the head's outputs are in float32 or
    better. `causal`: positions attend to earlier ones only. With `recompute`, the backward pass recomputes the
    activations inside blocks. `compiled`: set by the caller that has compiled the blocks; on a GPU, fused losses
    are then compiled too.
    """

    config: DiTConfig

    def __init__(
        self,
        config: DiTConfig,
        states: int,
        autocast: torch.dtype | None = None,
        causal: bool = False,
        variant: Variant = SEDD,
    ):
        super().__init__()
        self.config = config
        self.variant = variant
        self.states = states
        self.autocast = autocast
        self.causal = causal
        self.block_size = variant.block_size
        self.recompute = False
        self.compiled = False
        self.graphed: GraphedTrunk | None = None
        self.vocab_embed = Embedding(states, config.hidden_size)
        self.sigma_map = SigmaEmbedding(config.cond_dim) if variant.conditioned else None
        self.rotary_emb = Rotary(config.hidden_size // config.n_heads)
        self.blocks = nn.ModuleList(Block(config, variant) for _ in range(config.n_blocks))
        self.output_layer = OutputLayer(config, states, variant)

    @classmethod
    def empty(cls, config: DiTConfig, states: int, causal: bool = False, variant: Variant = SEDD) -> DiT:
        """A network whose parameters have shapes but no memory yet, for `load_state_dict(..., assign=True)`."""
        with torch.device("meta"):
            net = cls(config, states, causal=causal, variant=variant)
        net.rotary_emb = Rotary(config.hidden_size // config.n_heads)
        return net

    def hidden(self, x: Tensor, sigma: Tensor, past: KVCache | None = None) -> Tensor:
        """The head's input [B, L, D], after the final normalisation and modulation.

        past: cache of the tokens before x, for a causal network; x is appended to it.
        """
        if self.graphed is not None and past is None and x.is_cuda and not torch.is_grad_enabled():
            return self.graphed(self._hidden, x, sigma)
        return self._hidden(x, sigma, past)

    def _hidden(self, x: Tensor, sigma: Tensor, past: KVCache | None = None) -> Tensor:
        with self._mixed(x.device):
            cond = None if self.sigma_map is None else F.silu(self.sigma_map(sigma))
            h = self.vocab_embed(x)
            if past is None:
                shared = *self.angles(x.shape[1], h.dtype), self._attend(x.shape[1], x.device), self.causal
                for block in self.blocks:
                    if self.recompute and torch.is_grad_enabled():
                        h = checkpoint(block, h, cond, *shared, use_reentrant=False)
                    else:
                        h = block(h, cond, *shared)
            else:
                h = self._continued(h, cond, past)
            return full_precision(self.output_layer.modulated(h, cond))

    def hidden_given(self, x: Tensor, sigma: Tensor, x0: Tensor) -> Tensor:
        """`hidden` where each block of x sees itself and the earlier blocks of x0, which see each other alike.

        Both run through the blocks side by side at the same positions (Arriola et al. 2025, appendix B.6).
        """
        assert self.block_size is not None, "a network in blocks"
        length = x.shape[1]
        block = torch.arange(length, device=x.device) // self.block_size
        earlier, own = block[:, None] > block, block[:, None] == block
        seen = torch.cat([torch.cat([own, earlier], 1), torch.cat([torch.zeros_like(own), own | earlier], 1)])
        with self._mixed(x.device):
            cond = None if self.sigma_map is None else F.silu(self.sigma_map(sigma))
            h = self.vocab_embed(torch.cat([x, x0], 1))
            cos, sin = (torch.cat([table, table]) for table in self.angles(length, h.dtype))
            for layer in self.blocks:
                h = layer(h, cond, cos, sin, partial(masked, seen=seen))
            return full_precision(self.output_layer.modulated(h[:, :length], cond))

    def _attend(self, length: int, device: torch.device) -> Attend:
        """The attention of one length."""
        if self.variant.block_size is None:
            return ATTENTION[self.kernel(length)]
        block = torch.arange(length, device=device) // self.variant.block_size
        return partial(masked, seen=block[:, None] >= block)

    def kv_cache(self) -> KVCache:
        """An empty cache; ValueError unless the network is causal."""
        if not self.causal:
            raise ValueError("only a causal network has a cache: in others, new tokens change earlier activations")
        return KVCache()

    def _continued(self, h: Tensor, cond: Tensor | None, past: KVCache) -> Tensor:
        """The blocks' output for tokens that follow those in the cache."""
        cos, sin = (t[past.length :] for t in self.angles(past.length + h.shape[1], h.dtype))
        for layer, block in enumerate(self.blocks):
            h = block(h, cond, cos, sin, partial(past.attend, layer))
        past.length += h.shape[1]
        return h

    def angles(self, length: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """cos and sin for the queries and keys of a block, [L, 2D], in the dtype they are computed in."""
        return self.rotary_emb(length, 2 * self.config.n_heads, self.autocast or dtype)

    def cast_for_inference(self, dtype: torch.dtype | None) -> None:
        """Compute in mixed precision of this dtype, or in float32 if it is None.

        The matrices of the blocks and of the head are cast once, instead of in every call.

        On a GPU the trunk is from now on replayed from graphs: weights must stay where they are.
        """
        self.autocast, self.graphed = dtype, GraphedTrunk()
        if self.autocast is not None:
            for module in self.blocks.modules():
                if isinstance(module, nn.Linear):
                    module.to(self.autocast)
            head = self.output_layer.linear
            head.weight.data = self.readout.rounded(head.weight.data)  # on a GPU; elsewhere as it is

    @property
    def meaning(self) -> str:
        return "" if self.variant == SEDD else repr(self.variant)

    def kernel(self, length: int | None = None) -> str:
        """Name of the attention kernel used at a length (default: the trained length)."""
        if self.variant.block_size is not None:
            return "sdpa"
        weight, config = self.vocab_embed.embedding, self.config
        dtype, head_dim = self.autocast or weight.dtype, config.hidden_size // config.n_heads
        return choose(config.attention, weight.device, dtype, length or config.length, head_dim)

    @property
    def readout(self) -> Readout:
        """The linear head, for callers that compute its outputs in part."""
        linear = self.output_layer.linear
        return Readout(
            linear.weight,
            linear.bias,
            mixed=self.autocast == torch.bfloat16,
            compiled=self.compiled and linear.weight.is_cuda,
        )

    def head(self, hidden: Tensor) -> Tensor:
        """z [..., S] from hidden [..., D], in float32 or better."""
        return self.readout(hidden)

    def _mixed(self, device: torch.device) -> torch.autocast:
        return torch.autocast(device.type, self.autocast or torch.bfloat16, enabled=self.autocast is not None)
