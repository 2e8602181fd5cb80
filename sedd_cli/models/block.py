"""The parts of a `DiT`: a block of attention and MLP, and the output layer."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from sedd_cli.models.attention import rotate
from sedd_cli.models.layers import LayerNorm, dropout, modulate
from sedd_cli.models.modulation import PLAIN, AdaLN, Modulation
from sedd_cli.models.shape import SEDD, DiTConfig, Variant

#: q, k, v [B, H, L, D] and whether attention is causal → [B, H, L, D].
Attend = Callable[..., Tensor]


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
        self.adaLN_modulation = zero_linear(config.cond_dim, 6 * dim) if modulated(config, variant) else None

    def forward(
        self,
        h: Tensor,
        cond: Tensor | None,
        cos: Tensor | None,
        sin: Tensor | None,
        attend: Attend,
        causal: bool = False,
        rows: Tensor | None = None,
    ) -> Tensor:
        """The block's output for h [B, L, D], at all positions or, [R, D], at the `rows` [R] of B·L."""
        attention, mlp = self.modulations(cond)
        B, L, D = h.shape
        qkv = self.attn_qkv(attention.enter(self.norm1(h)))
        qk, v = qkv.split((2 * D, D), -1)
        if cos is not None and sin is not None:
            qk = rotate(qk, cos, sin, D // self.n_heads)
        q, k = qk.split(D, -1)
        q, k, v = (t.unflatten(-1, (self.n_heads, -1)).transpose(1, 2) for t in (q, k, v))
        a = attend(q, k, v, causal) if causal else attend(q, k, v)
        a = a.transpose(1, 2).reshape(B, L, D)
        if rows is not None:
            h, a = at_rows(h, rows), at_rows(a, rows)
            attention, mlp = attention.of(rows // L), mlp.of(rows // L)
        h = attention.leave(h, self._drop(self.attn_out(a)))
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
        wide = 2 * config.hidden_size
        self.adaLN_modulation = zero_linear(config.cond_dim, wide) if modulated(config, variant) else None

    def modulated(self, h: Tensor, cond: Tensor | None, sequence: Tensor | None = None) -> Tensor:
        """The input of `linear`, of h [B, L, D], or of rows h [R, D] of the sequences [R]."""
        h = self.norm_final(h)
        if self.adaLN_modulation is None:
            return h
        modulation = self.adaLN_modulation(cond)
        modulation = modulation[:, None] if sequence is None else modulation.index_select(0, sequence)
        shift, scale = modulation.chunk(2, dim=-1)
        return modulate(h, shift, scale)


def modulated(config: DiTConfig, variant: Variant) -> bool:
    """Whether the condition modulates the blocks."""
    return variant.conditioned and config.adaln


def at_rows(h: Tensor, rows: Tensor) -> Tensor:
    """h [B, L, D] at the rows [R] of B·L: [R, D]."""
    return h.flatten(0, 1).index_select(0, rows)


def zero_linear(inputs: int, outputs: int) -> nn.Linear:
    """A linear layer whose weights and biases are 0."""
    layer = nn.Linear(inputs, outputs)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer
