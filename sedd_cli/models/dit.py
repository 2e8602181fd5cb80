"""The score network: an encoder-only diffusion transformer (appendix C.2; Peebles and Xie 2023).

Parameter names, shapes and forward pass are those of the published checkpoints, so that
they load without a mapping.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from sedd_cli.models.attention import ATTENTION, KVCache, Rotary, choose, masked
from sedd_cli.models.block import Attend, Block, OutputLayer, modulated, zero_linear
from sedd_cli.models.cuda_graphs import GraphedTrunk
from sedd_cli.models.head import Readout
from sedd_cli.models.layers import Embedding, SigmaEmbedding, full_precision
from sedd_cli.models.network import LanguageNetwork
from sedd_cli.models.shape import SEDD, DiTConfig, Variant


class DiT(LanguageNetwork):
    """x [B, L] and sigma [B] → z [B, L, S], in two parts: the trunk `hidden` and the `head`.

    `autocast` is the dtype of mixed precision in both parts, or None; either way the head's outputs are in float32 or
    better. `causal`: positions attend to earlier ones only. `exponents`: how many parameters of the graph are learned
    with the network (`Graph.learned`). With `recompute`, the backward pass recomputes the activations inside blocks.
    `compiled`: set by the caller that has compiled the blocks; on a GPU, fused losses are then compiled too.
    """

    config: DiTConfig

    def __init__(
        self,
        config: DiTConfig,
        states: int,
        autocast: torch.dtype | None = None,
        causal: bool = False,
        variant: Variant = SEDD,
        exponents: int = 0,
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
        conditioned = variant.conditioned and (config.adaln or config.time)
        self.sigma_map = SigmaEmbedding(config.cond_dim) if conditioned else None
        self.rotary_emb = Rotary(config.hidden_size // config.n_heads) if config.positions == "rotary" else None
        self.blocks = nn.ModuleList(Block(config, variant) for _ in range(config.n_blocks))
        self.output_layer = OutputLayer(config, states, variant)
        added = conditioned and not modulated(config, variant)
        self.sigma_add = zero_linear(config.cond_dim, config.hidden_size) if added else None
        learned = config.positions == "learned"
        self.position_embed = Embedding(config.length, config.hidden_size) if learned else None
        self.exponents = nn.Parameter(torch.zeros(exponents)) if exponents else None

    @classmethod
    def empty(
        cls, config: DiTConfig, states: int, causal: bool = False, variant: Variant = SEDD, exponents: int = 0
    ) -> DiT:
        """A network whose parameters have shapes but no memory yet, for `load_state_dict(..., assign=True)`."""
        with torch.device("meta"):
            return cls(config, states, causal=causal, variant=variant, exponents=exponents)

    def hidden(self, x: Tensor, sigma: Tensor, past: KVCache | None = None) -> Tensor:
        """The head's input [B, L, D], after the final normalisation and modulation.

        past: cache of the tokens before x, for a causal network; x is appended to it.
        """
        if self.graphed is not None and past is None and x.is_cuda and not torch.is_grad_enabled():
            return self.graphed(self._hidden, x, sigma)
        return self._hidden(x, sigma, past)

    def hidden_at(self, x: Tensor, sigma: Tensor, rows: Callable[[], Tensor]) -> Tensor:
        """The head's input [R, D] at some rows [R] of B·L.

        On a CPU, what follows the attention of the last block is computed at these rows alone. On a GPU, and where
        blocks are compiled, shapes stay the same in every step.
        """
        if self.compiled or x.device.type != "cpu":
            return super().hidden_at(x, sigma, rows)
        found = rows()
        extra = -len(found) % self.readout.rows_in  # oneDNN keeps a kernel for every size
        return self._hidden(x, sigma, rows=F.pad(found, (0, extra)))[: len(found)]

    def _hidden(self, x: Tensor, sigma: Tensor, past: KVCache | None = None, rows: Tensor | None = None) -> Tensor:
        with self._mixed(x.device):
            cond = self._condition(sigma)
            h = self._embedded(x, cond, 0 if past is None else past.length)
            if past is None:
                shared = *self.angles(x.shape[1], h.dtype), self._attend(x.shape[1], x.device), self.causal
                for block in self.blocks:
                    given = h, cond, *shared, rows if block is self.blocks[-1] else None
                    if self.recompute and torch.is_grad_enabled():
                        h = checkpoint(block, *given, use_reentrant=False)
                    else:
                        h = block(*given)
            else:
                h = self._continued(h, cond, past)
            sequence = None if rows is None else rows // x.shape[1]
            return full_precision(self.output_layer.modulated(h, cond, sequence))

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
            cond = self._condition(sigma)
            h = torch.cat([self._embedded(x, cond), self._embedded(x0, cond)], 1)
            cos, sin = (None if table is None else torch.cat([table, table]) for table in self.angles(length, h.dtype))
            for layer in self.blocks:
                h = layer(h, cond, cos, sin, partial(masked, seen=seen))
            return full_precision(self.output_layer.modulated(h[:, :length], cond))

    def _condition(self, sigma: Tensor) -> Tensor | None:
        """The condition [B, C] of noise sigma [B]; without time conditioning that of no noise, or None."""
        if self.sigma_map is None:
            return None
        return F.silu(self.sigma_map(sigma if self.config.time else torch.zeros_like(sigma)))

    def _embedded(self, x: Tensor, cond: Tensor | None, first: int = 0) -> Tensor:
        """Embeddings [B, L, D] of tokens at the positions from `first` on, with what is added to them."""
        h = self.vocab_embed(x)
        if self.position_embed is not None:
            last = first + x.shape[1]
            if last > self.config.length:
                raise ValueError(f"learned positions end at {self.config.length}, found a text of {last} tokens")
            h = h + self.position_embed.embedding[first:last]
        if self.sigma_add is not None and cond is not None:
            h = h + self.sigma_add(cond)[:, None]
        return h

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
        tables = self.angles(past.length + h.shape[1], h.dtype)
        cos, sin = (None if table is None else table[past.length :] for table in tables)
        for layer, block in enumerate(self.blocks):
            h = block(h, cond, cos, sin, partial(past.attend, layer))
        past.length += h.shape[1]
        return h

    def angles(self, length: int, dtype: torch.dtype) -> tuple[Tensor | None, Tensor | None]:
        """cos and sin for the queries and keys of a block, [L, 2D], in the dtype they are computed in.

        None where positions are not rotary.
        """
        if self.rotary_emb is None:
            return None, None
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
