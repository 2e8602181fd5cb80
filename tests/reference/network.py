"""The published network in loops, and a network that returns a given score."""

from __future__ import annotations

import math

import torch


def network(
    state: dict[str, torch.Tensor], x: torch.Tensor, sigma: torch.Tensor, n_heads: int, block_size: int | None = None
) -> torch.Tensor:
    """The published architecture (appendix C.2), one sequence and one head at a time: z [B, L, S].

    block_size: positions attend to their own block of so many and to earlier ones (BD3-LM).
    """
    rows = zip(x, sigma, strict=True)
    return torch.stack([_one_sequence(state, row, float(level), n_heads, block_size) for row, level in rows])


def _layer_norm(h: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    mean = h.mean(-1, keepdim=True)
    variance = ((h - mean) ** 2).mean(-1, keepdim=True)
    return (h - mean) / torch.sqrt(variance + 1e-5) * weight


def _silu(v: torch.Tensor) -> torch.Tensor:
    return v / (1 + torch.exp(-v))


def _gelu_tanh(v: torch.Tensor) -> torch.Tensor:
    return 0.5 * v * (1 + torch.tanh(math.sqrt(2 / math.pi) * (v + 0.044715 * v**3)))


def _rotate(v: torch.Tensor) -> torch.Tensor:
    """Rotary embedding of one head, [L, d]: entries j and j + d/2 are rotated by position * 10000^(-2j/d)."""
    L, d = v.shape
    out = torch.empty_like(v)
    for position in range(L):
        for j in range(d // 2):
            angle = position * 10000.0 ** (-2 * j / d)
            c, s = math.cos(angle), math.sin(angle)
            a, b = v[position, j], v[position, j + d // 2]
            out[position, j], out[position, j + d // 2] = a * c - b * s, b * c + a * s
    return out


def _one_sequence(
    state: dict[str, torch.Tensor], x: torch.Tensor, sigma: float, n_heads: int, block_size: int | None
) -> torch.Tensor:
    h = state["vocab_embed.embedding"][x]
    D = h.shape[1]
    d = D // n_heads

    angles = [sigma * math.exp(-math.log(10000) * j / 128) for j in range(128)]
    features = torch.tensor([math.cos(a) for a in angles] + [math.sin(a) for a in angles], dtype=h.dtype)
    cond = state["sigma_map.mlp.0.weight"] @ features + state["sigma_map.mlp.0.bias"]
    cond = state["sigma_map.mlp.2.weight"] @ _silu(cond) + state["sigma_map.mlp.2.bias"]
    cond = _silu(cond)

    n_blocks = 1 + max(int(name.split(".")[1]) for name in state if name.startswith("blocks."))
    for i in range(n_blocks):
        block = {name.removeprefix(f"blocks.{i}."): v for name, v in state.items() if name.startswith(f"blocks.{i}.")}
        adaLN = block["adaLN_modulation.weight"] @ cond + block["adaLN_modulation.bias"]
        shift_msa, scale_msa, gate_msa, shift_mlp, scale_mlp, gate_mlp = adaLN.chunk(6)

        v = _layer_norm(h, block["norm1.weight"]) * (1 + scale_msa) + shift_msa
        q, k, v = (v @ block["attn_qkv.weight"][j * D : (j + 1) * D].T for j in range(3))
        heads = []
        for head in range(n_heads):
            part = slice(head * d, (head + 1) * d)
            logits = _rotate(q[:, part]) @ _rotate(k[:, part]).T / math.sqrt(d)
            for i_query in range(len(x)):
                for i_key in range(len(x)):
                    if block_size is not None and i_key // block_size > i_query // block_size:
                        logits[i_query, i_key] = -math.inf
            weights = torch.softmax(logits, dim=-1)
            heads.append(weights @ v[:, part])
        h = h + gate_msa * (torch.cat(heads, dim=-1) @ block["attn_out.weight"].T)

        v = _layer_norm(h, block["norm2.weight"]) * (1 + scale_mlp) + shift_mlp
        v = _gelu_tanh(v @ block["mlp.0.weight"].T + block["mlp.0.bias"])
        h = h + gate_mlp * (v @ block["mlp.2.weight"].T + block["mlp.2.bias"])

    shift, scale = (
        state["output_layer.adaLN_modulation.weight"] @ cond + state["output_layer.adaLN_modulation.bias"]
    ).chunk(2)
    v = _layer_norm(h, state["output_layer.norm_final.weight"]) * (1 + scale) + shift
    return v @ state["output_layer.linear.weight"].T + state["output_layer.linear.bias"]
