"""SEDD's network in checkpoints of others: its shape is read from its tensors."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

from sedd_cli.checkpoints.tensors import load_weights
from sedd_cli.errors import DamageError, RequestError, listed
from sedd_cli.models.dit import DiT
from sedd_cli.models.shape import DiTConfig, Variant

PREFIX = "backbone."
EMBEDDING, CONDITION = "vocab_embed.embedding", "sigma_map.mlp.0.weight"
_BLOCK = re.compile(r"blocks\.(\d+)\.")


def without_prefix(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors by name without the prefix of the network."""
    return {name.removeprefix(PREFIX): value for name, value in tensors.items()}


def network(
    tensors: Mapping[str, Tensor], n_heads: int, length: int, source: str, block_size: int | None = None
) -> DiT:
    """The network that tensors by name hold; others are ignored.

    Raises:
        RequestError: It is another network, or a variant that is not supported.
        DamageError: Tensors are missing or wrong.
    """
    if any("cond_map" in name for name in tensors):
        raise RequestError(f"{source} is a class-conditional model (cfg), which is not supported")
    if any(".mixer." in name for name in tensors):
        raise RequestError(f"{source} has a state-space network (DiMamba), which is not supported")
    embedding = tensors.get(EMBEDDING)
    if embedding is None or embedding.dim() != 2:
        raise DamageError(f"{source} has no tensor {EMBEDDING} [V, D]; it has {listed(sorted(tensors)) or 'none'}")
    blocks = {int(found[1]) for name in tensors if (found := _BLOCK.match(name))}
    condition = tensors.get(CONDITION)
    variant = Variant(condition is not None, "blocks.0.norm1.bias" in tensors, block_size)
    try:
        shape = DiTConfig(
            n_blocks=len(blocks),
            hidden_size=embedding.shape[1],
            n_heads=n_heads,
            cond_dim=1 if condition is None else condition.shape[0],
            length=length,
            dropout=0.0,
        )
    except ValueError as error:
        raise DamageError(f"{source}: {error}") from None
    net = DiT.empty(shape, len(embedding), variant=variant)
    known = {name for name, _ in [*net.named_parameters(), *net.named_buffers()]}
    # copied: matrices at the places that a file happens to have round otherwise
    load_weights(net, {name: value for name, value in tensors.items() if name in known}, source, copy=True)
    return net
